"""A very small random-weight model with its tokenizer, on disk, for tests that need no trained one."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from helpers.problems import Problem

OPERATIONS = {"add": "+", "sub": "-", "mul": "*", "mod": "%", "floor": "//", "power": "**"}


def arithmetic_problems() -> list[Problem]:
    """Six problems in HumanEval's schema."""
    return [
        Problem(
            task_id=f"arithmetic/{name}",
            prompt=f'def {name}(a, b):\n    """Return a {sign} b."""\n',
            canonical_solution=f"    return a {sign} b\n",
            test=f"def check(candidate):\n    assert candidate(7, 2) == {eval(f'7 {sign} 2')}\n",
            entry_point=name,
        )
        for name, sign in OPERATIONS.items()
    ]


def save_random_policy(folder: Path, seed: int = 0) -> Path:
    """Write a two-layer Qwen2 (about 40,000 random weights) and a byte-level BPE of 300 tokens to `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([p.prompt + p.canonical_solution for p in arithmetic_problems()], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", padding_side="left"
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.2,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
