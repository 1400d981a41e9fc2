"""Local stand-ins for a chat model from the Hub: all that the profile qwen needs, small enough for a test."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from random_policy import byte_level_bpe, random_qwen2
from transformers import GenerationConfig, PreTrainedTokenizerFast

from helpers.policy import load_policy, save_policy
from helpers.problems import Problem, load_problems
from helpers.profiles import Settings, profile_settings

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The bundled model knows no chat, so this template gives it only the code inside the fence, as in its training. Without
# a fence, as in the mode "prefill", it gives nothing: there the code follows the template's text.
FENCED_CODE = (
    r"{% set parts = messages[0]['content'].split('```python\n') %}"
    r"{% if parts[1] is defined %}{{ parts[1].split('\n```')[0] }}{{ '\n' }}{% endif %}"
)


def save_chat_policy(folder: Path, end_share: float = 0.1, seed: int = 0) -> Path:
    """Write a random Qwen2 that looks like Qwen2.5-Instruct: ChatML, two EOS tokens, its own sampling settings.

    About `end_share` of the tokens that it samples end the completion.
    """
    end, padding = "<|im_end|>", "<|endoftext|>"
    prompts = [problem.prompt for problem in load_problems("humaneval")]
    bpe = byte_level_bpe(prompts, 400, [padding, "<|im_start|>", end])
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end, pad_token=padding)
    fast.chat_template = CHATML
    model = random_qwen2(fast, seed, max_position_embeddings=2048, tie_word_embeddings=False)
    # The first number at every position is large and the same, so a single weight sets a token's probability.
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 3.0
        head = model.get_output_embeddings().weight
        height = model.model(torch.arange(20)[None]).last_hidden_state[0, :, 0].mean()
        head[:, 0] = 0.0
        head[fast.eos_token_id, 0] = torch.log(torch.tensor(end_share / (1 - end_share) * len(fast))) / height
    model.generation_config = GenerationConfig(
        eos_token_id=[fast.eos_token_id, fast.pad_token_id],
        pad_token_id=fast.pad_token_id,
        do_sample=True,
        temperature=0.7,
        top_p=0.8,
        top_k=20,
        repetition_penalty=1.1,
    )
    save_policy(model, fast, folder)
    return folder


def save_tiny_chat(folder: Path) -> Path:
    """Write the bundled model with a chat template: a chat model that has something to learn."""
    model, tokenizer = load_policy("data/tiny_coder")
    tokenizer.chat_template = FENCED_CODE
    save_policy(model, tokenizer, folder)
    return folder


def small_qwen_cpu() -> Settings:
    """Return the profile qwen-cpu with sizes for `save_tiny_chat`, which has 4 layers."""
    return replace(
        profile_settings("qwen-cpu"),
        lora_layers=(2, 3),
        train_limit=16,
        keep_solvable=4,
        prompts_per_step=3,
        num_generations=4,
        max_completion_length=24,
        eval_max_completion_length=32,
        max_steps=3,
        save_steps=2,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
    )


def write_mixed_problems(path: Path, humaneval: int, tiny: int) -> Path:
    """Write the HumanEval problems with the shortest prompts, and bundled ones under names that split by chance."""
    shortest = sorted(load_problems("humaneval"), key=lambda problem: len(problem.prompt))[:humaneval]
    rows = [vars(problem) for problem in shortest]
    rows += [vars(p) | {"task_id": f"mixed/{i}"} for i, p in enumerate(load_problems("tiny")[:tiny])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert all(isinstance(row["task_id"], str) for row in rows) and Problem(**rows[0])
    return path
