"""Make TRL's GRPOTrainer fast enough for a real model on a CPU: read a prompt once for its whole group."""

from collections.abc import Callable
from copy import copy
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad

from helpers.answers import EndRule
from helpers.policy import is_cut_off, sample_completion_ids, tokenize_prompt

if TYPE_CHECKING:
    from trl import GRPOTrainer

PART = 16  # completions that are scored together


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


def score_completions(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the log-probability and the entropy (nats) of each completion token, and read each prompt only once.

    `model` is one that a GRPOTrainer holds; a reference model gives no entropies. The rows are prompts padded on the
    left, then completions of at most `completion_length` tokens padded on the right, as TRL makes them; both results
    have shape (rows, completion_length) and are 0 at padding. TRL itself computes every prompt again for each of its
    completions, and pads all completions to the longest. The values and their gradients are the same up to rounding:
    what a completion reads of its prompt are the keys and values in the cache, and the gradient flows back through
    them.
    """
    # The last token of the prompt comes with the completion, because it predicts the completion's first token.
    start = input_ids.shape[1] - completion_length - 1
    rows, owner = torch.unique(
        torch.stack([input_ids, attention_mask])[:, :, :start].movedim(0, 1), dim=0, return_inverse=True
    )
    prompt_ids, prompt_mask = rows.unbind(1)
    positions = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
    read = {"attention_mask": prompt_mask, "position_ids": positions, "use_cache": True, "logits_to_keep": 1}
    cache = model(input_ids=prompt_ids, **read).past_key_values
    lengths = attention_mask[:, start + 1 :].sum(-1)
    order = lengths.argsort()
    # Completions of similar length share a part, which needs little padding.
    parts = [
        _score_part(model, input_ids[part], attention_mask[part], start, int(lengths[part].max()), cache, owner[part])
        for part in order.split(PART)
    ]
    back = order.argsort()
    logps, entropies = (
        [pad(one, (0, completion_length - one.shape[1])) for one in tensors if one is not None]
        for tensors in zip(*parts, strict=True)
    )
    return torch.cat(logps)[back], torch.cat(entropies)[back] if entropies else None


def _score_part(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    start: int,
    longest: int,
    cache: Any,
    owner: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Score some rows, given the cache of all prompts and the number of each row's prompt in it."""
    end = start + 1 + max(1, longest)
    ids, mask = input_ids[:, :end], attention_mask[:, :end]
    labels = ids.masked_fill(mask == 0, -100)[:, start:]
    labels[:, 0] = -100
    own = copy(cache)
    own.layers = [copy(layer) for layer in cache.layers]
    own.reorder_cache(owner)  # from one row per prompt to one row per completion; the old tensors stay as they are
    scores = model(
        input_ids=ids[:, start:],
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, start:],
        past_key_values=own,
        labels=labels,
        fused_lm_head=True,
    )
    return scores.log_probs, scores.entropy


def _seed(*numbers: int) -> int:
    """Mix several numbers into one seed, so that (0, 1) and (1, 0) give different streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
