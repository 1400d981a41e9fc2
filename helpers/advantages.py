"""Turn rewards into advantages: how much better each completion did than the rest of its group."""

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-4  # TRL's value; it keeps a group of equal rewards from dividing by zero


def group_advantages(
    rewards: Sequence[float | None] | Tensor, num_generations: int, scale_rewards: str = "group"
) -> Tensor:
    """Subtract the group's mean from each reward, then scale. Returns a float32 tensor of shape (completions,).

    `rewards` lists the groups one after another. As in TRL 1.16, `scale_rewards` divides the differences by

    - "group": the standard deviation of the group (GRPO, arXiv 2402.03300, section 4.1.2);
    - "batch": the standard deviation of the whole batch (arXiv 2508.08221);
    - "none": nothing (Dr. GRPO, arXiv 2503.20783).

    The standard deviation uses n - 1, and 1e-4 is added to it. A reward of None or NaN was not graded: it is left out
    of every mean and standard deviation, and its advantage is 0. Raises ValueError if the rewards do not form whole
    groups of at least 2, if one is infinite, or if `scale_rewards` is unknown.

    >>> group_advantages([1.0, 0.0, 0.0, 0.0], 4, "none")
    tensor([ 0.7500, -0.2500, -0.2500, -0.2500])
    """
    groups = _groups(rewards, num_generations)
    if scale_rewards not in ("group", "batch", "none"):
        raise ValueError(f'scale_rewards must be "group", "batch" or "none", not {scale_rewards!r}.')
    advantages = groups - groups.nanmean(1, keepdim=True)
    if scale_rewards == "group":
        advantages = advantages / (standard_deviation(groups, dim=1) + EPSILON)
    if scale_rewards == "batch":
        advantages = advantages / (standard_deviation(groups, dim=(0, 1)) + EPSILON)
    # NaN marks what was not graded, and also a group in which only one reward was.
    return advantages.nan_to_num(0.0).flatten()


def standard_deviation(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return the standard deviation (n - 1) along `dim`, which is kept. NaNs are ignored; a single value gives NaN."""
    # torch.std does not skip NaNs, and there is no torch.nanstd.
    counted = (~values.isnan()).sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (squares / (counted - 1)).sqrt()


def _groups(rewards: Sequence[float | None] | Tensor, num_generations: int) -> Tensor:
    """Return the rewards as a float32 tensor of shape (groups, num_generations), with NaN for None."""
    if num_generations < 2:
        raise ValueError(
            f"num_generations must be at least 2, not {num_generations}: an advantage compares a completion with the "
            "others of its group."
        )
    if not isinstance(rewards, Tensor):
        rewards = torch.tensor([float("nan") if reward is None else reward for reward in rewards])
    if rewards.ndim != 1 or len(rewards) == 0 or len(rewards) % num_generations:
        raise ValueError(
            f"rewards must be 1-D, its length a multiple of num_generations ({num_generations}); "
            f"got shape {tuple(rewards.shape)}."
        )
    if rewards.isinf().any():
        raise ValueError("A reward is infinite, so every advantage in its group would be meaningless.")
    return rewards.float().view(-1, num_generations)
