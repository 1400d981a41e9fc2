"""From rewards to advantages: how much better a completion did than the others of its group."""

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-4  # TRL's; keeps a group of equal rewards from dividing by zero


def group_advantages(
    rewards: Sequence[float | None] | Tensor, num_generations: int, scale_rewards: str = "group"
) -> Tensor:
    """Each reward minus the mean of its group, scaled; shape (completions,), float32.

    `rewards` holds whole groups one after the other. Divided by the standard deviation (unbiased: n - 1) plus 1e-4 of
    the "group" (GRPO, arXiv 2402.03300 section 4.1.2), of the whole "batch" (2508.08221), or by nothing: "none"
    (Dr. GRPO, 2503.20783). All three as TRL 1.16 has them. A reward of None or NaN counts in no mean and no deviation;
    its advantage is 0. Raises ValueError for rewards that are no whole groups, groups of 1, infinities, other scales.
    """
    groups = _groups(rewards, num_generations)
    if scale_rewards not in ("group", "batch", "none"):
        raise ValueError(f'scale_rewards must be "group", "batch" or "none", not {scale_rewards!r}.')
    advantages = groups - groups.nanmean(1, keepdim=True)
    if scale_rewards == "group":
        advantages = advantages / (standard_deviation(groups, dim=1) + EPSILON)
    if scale_rewards == "batch":
        advantages = advantages / (standard_deviation(groups, dim=(0, 1)) + EPSILON)
    return advantages.nan_to_num(0.0).flatten()


def leave_one_out_advantages(rewards: Sequence[float | None] | Tensor, num_generations: int) -> Tensor:
    """Each reward minus the mean of the others of its group (RLOO, arXiv 2402.14740); shape (completions,), float32.

    That is n / (n - 1) times reward minus group mean, n being the graded completions of the group. None, NaN and
    errors as in `group_advantages`.
    """
    groups = _groups(rewards, num_generations)
    graded = (~groups.isnan()).sum(1, keepdim=True)
    return ((groups - groups.nanmean(1, keepdim=True)) * graded / (graded - 1)).nan_to_num(0.0).flatten()


def standard_deviation(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Unbiased standard deviation along `dim`, which is kept, without the NaNs; NaN where only one value is left."""
    counted = (~values.isnan()).sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (squares / (counted - 1)).sqrt()


def _groups(rewards: Sequence[float | None] | Tensor, num_generations: int) -> Tensor:
    """The rewards as a tensor of shape (groups, num_generations), None as NaN."""
    if num_generations < 2:
        raise ValueError(f"num_generations must be at least 2, not {num_generations}: alone, nothing can be compared.")
    if not isinstance(rewards, Tensor):
        rewards = torch.tensor([float("nan") if reward is None else reward for reward in rewards])
    if rewards.ndim != 1 or len(rewards) == 0 or len(rewards) % num_generations:
        raise ValueError(
            f"Rewards must be one row of whole groups of {num_generations}, not of shape {tuple(rewards.shape)}."
        )
    if rewards.isinf().any():
        raise ValueError("A reward is infinite, which would make every advantage of its group meaningless.")
    return rewards.float().view(-1, num_generations)
