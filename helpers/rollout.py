"""Make TRL's GRPOTrainer fast enough for a real model on a CPU: sample groups, and score completions only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.answers import EndRule
from helpers.policy import is_cut_off, sample_completion_ids, tokenize_prompt

if TYPE_CHECKING:
    from trl import GRPOTrainer


def group_rollout(
    *,
    temperature: float = 1.0,
    max_completion_length: int,
    batch_size: int = 256,
    precision: str = "fp32",
    seed: int = 0,
    ends: EndRule | None = None,
    mask_cut_off: bool = False,
) -> Callable[[list, "GRPOTrainer"], dict[str, Any]]:
    """Return a `rollout_func` for GRPOTrainer. The arguments are those of `sample_completion_ids`.

    TRL calls it once per generation batch, with every prompt repeated `num_generations` times. The draws depend on
    `seed`, the step and the process alone, so a resumed run samples what an uninterrupted one does.

    The reward functions get two columns more: `cut_off`, True for a completion that reached the length limit, and
    `sampling_seconds`, how long the whole batch took. TRL itself counts every completion without an EOS token as cut
    off, also one that the rule `ends` has ended. For the same reason leave GRPOConfig's `mask_truncated_completions` at
    False and ask for `mask_cut_off` here.
    """

    def rollout(prompts: list, trainer: "GRPOTrainer") -> dict[str, Any]:
        started = perf_counter()
        model, tokenizer = trainer.accelerator.unwrap_model(trainer.model_wrapped), trainer.processing_class
        prompt_ids = [tokenize_prompt(tokenizer, prompt) for prompt in prompts]
        groups = sample_completion_ids(
            model,
            tokenizer,
            prompts,
            temperature=temperature,
            max_completion_length=max_completion_length,
            batch_size=batch_size,
            precision=precision,
            seed=_seed(seed, trainer.state.global_step, trainer.accelerator.process_index),
            ends=ends,
        )
        completion_ids = [ids for (ids,) in groups]
        cut_off = [is_cut_off(model, tokenizer, ids, max_completion_length, ends) for ids in completion_ids]
        # TRL needs the key "logprobs", but uses the values only to correct for another engine's rounding, as vLLM's.
        output: dict[str, Any] = {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}
        # TRL copies to every row what is not a list.
        output |= {"cut_off": cut_off, "sampling_seconds": perf_counter() - started}
        if mask_cut_off:
            output["env_mask"] = [[int(not cut)] * len(ids) for cut, ids in zip(cut_off, completion_ids, strict=True)]
        return output

    return rollout


@contextmanager
def completions_only() -> Iterator[None]:
    """Let TRL compute log-probabilities of the completions alone, as it does on a GPU.

    On a CPU, TRL 1.16 multiplies the hidden state of every position, of prompts and padding too, by the output layer,
    and discards most of the result. With a vocabulary of 151,936 that is most of a step. It asks a private function
    whether to select the positions first; here the answer is yes. The values are the same up to rounding. If another
    version of TRL has no such function, nothing changes.
    """
    from trl.trainer import utils

    asked = getattr(utils, "_use_triton", None)
    if asked is not None:
        utils._use_triton = lambda device: True
    try:
        yield
    finally:
        if asked is not None:
            utils._use_triton = asked


def _seed(*numbers: int) -> int:
    """Mix several numbers into one seed, so that (0, 1) and (1, 0) give different streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
