"""Notebook 01: what a step holds in memory and how long it computes, for two rewards and two ways to learn."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedTokenizerBase

from helpers.policy import load_policy
from helpers.preferences import RewardModel
from helpers.problems import load_problems, split_problems
from tools.record.learned_reward import LOOP, MODEL, PROBLEMS, RUNS, Run, Start, train_copy

FILES = ("two_by_two.csv",)
CROSSED = [run for run in RUNS if run.reward == "verifier" or (run.reward == "learned" and run.beta)]
STEPS = 10
SETTINGS = {"model": MODEL, "problems": PROBLEMS, "steps": STEPS, **LOOP}
BYTES = ("weights", "gradients", "optimizer", "critic", "reference", "reward model", "kept logits")


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Take the first STEPS of each run of the 2 x 2. There is a row for each.

    The reward model is not trained here: it is as large and as slow as a trained one.
    """
    policy, tokenizer = load_policy(MODEL)
    start = Start(seed, policy, tokenizer, *split_problems(load_problems(PROBLEMS)), RewardModel(policy).eval())
    # Each seed begins with another run, so that a machine that becomes busier favours none of them.
    turn = seed % len(CROSSED)
    rows = [{"seed": seed, **run._asdict(), **costs(start, run)} for run in CROSSED[turn:] + CROSSED[:turn]]
    return {FILES[0]: pd.DataFrame(rows)}


def costs(start: Start, run: Run) -> dict[str, float]:
    """Measure a step's seconds (the median), the bytes that the first one holds, part by part, and its tokens.

    Its tokens are those whose logits are kept: the padded completions.
    """
    frozen = {"reference": start.policy if run.beta else None}
    frozen["reward model"] = start.reward_model if run.reward == "learned" else None
    held = dict.fromkeys(BYTES, 0) | {name: bytes_of(model.parameters()) for name, model in frozen.items() if model}
    with counting(start.tokenizer) as (trained, logits):
        [first] = train_copy(start, run, copy.deepcopy(start.policy), max_steps=1)
    held |= trained[0]
    held["critic"] = sum(sum(parts.values()) for parts in trained[1:])
    held["kept logits"] = sum(logits.values())
    steps = train_copy(start, run, copy.deepcopy(start.policy), max_steps=STEPS)
    seconds = {"seconds_per_step": median(step.seconds for step in steps)}
    return seconds | {f"{name} bytes": size for name, size in held.items()} | {"tokens": first.tokens}


@contextmanager
def counting(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[dict[str, int]], dict[int, int]]]:
    """Count what one training step holds: the bytes of each optimizer's tensors, and of the logits kept by autograd.

    The first value gets the parts of each optimizer's model, in the order in which they step; the second one the bytes
    of each kept tensor whose last dimension is the vocabulary.
    """
    trained, logits = list[dict[str, int]](), dict[int, int]()

    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = optimizer.param_groups[0]["params"]
        moments = [tensor for state in optimizer.state.values() for name, tensor in state.items() if name != "step"]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        parts = {"weights": weights, "gradients": gradients, "optimizer": moments}
        trained.append({name: bytes_of(tensors) for name, tensors in parts.items()})

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 3 and tensor.shape[-1] == len(tokenizer):
            logits[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hook = register_optimizer_step_post_hook(after)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield trained, logits
    finally:
        hook.remove()


def bytes_of(tensors: Any) -> int:
    """Return the bytes of several tensors."""
    return sum(tensor.nbytes for tensor in tensors)
