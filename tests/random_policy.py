"""A very small model with random weights and its tokenizer, on disk, for tests that need no trained one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from helpers.problems import Problem

OPERATIONS = {"add": "+", "sub": "-", "mul": "*", "mod": "%", "floor": "//", "power": "**"}
# GRPOConfig on a CPU, without anything that a test does not look at.
CPU_CONFIG = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def arithmetic_problems() -> list[Problem]:
    """Return six problems in HumanEval's form."""
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


def byte_level_bpe(texts: Iterable[str], size: int, special_tokens: list[str]) -> Tokenizer:
    """Train a byte-level BPE of `size` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def random_qwen2(tokenizer: PreTrainedTokenizerFast, seed: int, **options: Any) -> Qwen2ForCausalLM:
    """Make a two-layer Qwen2 (about 40,000 random weights) for a tokenizer."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    return Qwen2ForCausalLM(config)


def save_random_policy(folder: Path, seed: int = 0) -> Path:
    """Write such a model and a tokenizer of 300 tokens to `folder`."""
    end = "<|endoftext|>"
    bpe = byte_level_bpe([p.prompt + p.canonical_solution for p in arithmetic_problems()], 300, [end])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end, pad_token=end, padding_side="left")
    options = {"max_position_embeddings": 512, "tie_word_embeddings": True, "initializer_range": 0.2}
    random_qwen2(tokenizer, seed, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
