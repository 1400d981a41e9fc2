"""Compute the GRPO family of losses, under TRL's names.

Shapes: `logps`, `old_logps`, `ref_logps`, `entropies` and `mask` are (completions, tokens), `advantages` is
(completions,). The mask is 1 on a completion's tokens, its EOS token included, and 0 on padding.
"""

import torch
from torch import Tensor

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    loss_type: str = "dapo",
    importance_sampling_level: str = "token",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    sapo_temperature_pos: float = 1.0,
    sapo_temperature_neg: float = 1.05,
    beta: float = 0.0,
    ref_logps: Tensor | None = None,
    kl_estimator: str = "k3",
    use_bias_correction_kl: bool = True,
    max_completion_length: int | None = None,
    num_items_in_batch: float | None = None,
    entropies: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss to minimise, a scalar, and the diagnostics that TRL logs about it.

    Names and defaults are those of TRL 1.16's GRPOConfig; only `kl_estimator` is this course's. On-policy, pass
    `logps.detach()` as `old_logps`. Some methods have no loss type of their own:

    - GSPO (arXiv 2507.18071) is loss_type="grpo" with importance_sampling_level="sequence";
    - clip-higher (arXiv 2503.14476) is an `epsilon_high` above `epsilon`, which it otherwise equals.

    For "dapo" and "cispo", `num_items_in_batch` is the number of completion tokens in the whole optimizer step; give
    it if this batch is only a part of the step. The diagnostics are clip ratios ("sapo" has none), the KL if `beta` is
    not 0, and the entropy if `entropies` are given. Raises ValueError for an unknown name, for shapes that do not fit,
    and if a variant lacks an argument that it needs.

    >>> logps = torch.tensor([[-0.5, -1.0], [-2.0, -0.1]])
    >>> loss, logged = grpo_loss(logps, logps, torch.tensor([1.0, -0.5]), torch.ones(2, 2))
    >>> round(loss.item(), 4), logged["clip_ratio/region_mean"]
    (-0.25, 0.0)
    """
    _check(logps, old_logps, advantages, mask)
    if loss_type == "cispo" and epsilon_high is None:
        raise ValueError("cispo caps the ratio at epsilon_high itself, not at 1 + epsilon_high: pass it, e.g. 5.0.")
    high = epsilon if epsilon_high is None else epsilon_high
    mask, advantages = mask.float(), advantages[:, None]
    ratio = importance_ratio(logps, old_logps, mask, importance_sampling_level)

    if loss_type == "cispo":
        losses = cispo_losses(ratio, advantages, logps, high)
        logged = {"cispo_clip_ratio": _mean((ratio > high) & (advantages > 0), mask)}
    elif loss_type == "sapo":
        losses = sapo_losses(ratio, advantages, sapo_temperature_pos, sapo_temperature_neg)
        logged = {}
    else:
        losses = clipped_losses(ratio, advantages, epsilon, high)
        logged = _clip_ratios(ratio, advantages, mask, epsilon, high)
    if beta:
        if ref_logps is None:
            raise ValueError("A KL penalty (beta above 0) needs ref_logps, the reference model's log-probabilities.")
        # Tokens come from the old policy. Weighting by the ratio makes the estimate, and its gradient, unbiased.
        kl = per_token_kl(logps, ref_logps, kl_estimator) * (ratio if use_bias_correction_kl else 1)
        losses = losses + beta * kl
        logged["kl"] = _mean(kl, mask)
    if entropies is not None:
        logged["entropy"] = _mean(entropies, mask)
    return aggregate(losses, mask, loss_type, max_completion_length, num_items_in_batch), logged


def importance_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor, level: str) -> Tensor:
    """Return the ratio of new to old probability, per "token" or per "sequence".

    The shape is (completions, tokens) or (completions, 1). The ratio of a sequence is the geometric mean of its tokens'
    ratios (GSPO, arXiv 2507.18071). Raises ValueError for another level.
    """
    log_ratio = logps - old_logps
    if level == "sequence":
        log_ratio = ((log_ratio * mask).sum(1) / mask.sum(1).clamp(min=1))[:, None]
    elif level != "token":
        raise ValueError(f'importance_sampling_level must be "token" or "sequence", not {level!r}.')
    return log_ratio.exp()


def clipped_losses(ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float) -> Tensor:
    """Return -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) for each token (PPO, arXiv 1707.06347)."""
    return -torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantages)


def cispo_losses(ratio: Tensor, advantages: Tensor, logps: Tensor, epsilon_high: float) -> Tensor:
    """Return -min(r, epsilon_high) A log p for each token (CISPO, arXiv 2506.13585)."""
    # The capped ratio is only a weight. Without detach, the gradient of a capped token would be lost.
    return -ratio.clamp(max=epsilon_high).detach() * advantages * logps


def sapo_losses(ratio: Tensor, advantages: Tensor, temperature_pos: float, temperature_neg: float) -> Tensor:
    """Return -(4 / t) sigmoid(t (r - 1)) A for each token (SAPO, arXiv 2511.20347).

    t is `temperature_pos` if A > 0, else `temperature_neg`. The sigmoid is a soft clip: its slope in r is 1 at r = 1,
    as without clipping, and falls towards 0 on both sides, faster the larger t is.
    """
    temperatures = torch.where(advantages > 0, temperature_pos, temperature_neg)
    return -torch.sigmoid(temperatures * (ratio - 1)) * 4 / temperatures * advantages


def per_token_kl(logps: Tensor, ref_logps: Tensor, estimator: str = "k3") -> Tensor:
    """Estimate KL(policy || reference) for each token that the policy sampled, by Schulman's (2020) k1, k2 or k3."""
    log_ratio = ref_logps - logps
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    if estimator == "k3":
        return log_ratio.exp() - log_ratio - 1
    raise ValueError(f'kl_estimator must be "k1", "k2" or "k3", not {estimator!r}.')


def aggregate(
    losses: Tensor,
    mask: Tensor,
    loss_type: str,
    max_completion_length: int | None = None,
    num_items_in_batch: float | None = None,
) -> Tensor:
    """Reduce one loss per token to one number. Most of the variants differ only here.

    Raises ValueError for an unknown `loss_type`, and for "dr_grpo" without `max_completion_length`.
    """
    per_completion, lengths = (losses * mask).sum(1), mask.sum(1)
    # A mean over the tokens of each completion, then over completions (GRPO, arXiv 2402.03300).
    if loss_type in ("grpo", "sapo"):
        return (per_completion / lengths.clamp(min=1)).mean()
    # A mean over all tokens of this batch.
    if loss_type == "bnpo":
        return per_completion.sum() / lengths.sum().clamp(min=1)
    # A mean over all tokens of the whole step (DAPO, arXiv 2503.14476).
    if loss_type in ("dapo", "cispo"):
        return per_completion.sum() / (lengths.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
    # The divisor does not depend on the lengths, so long completions are not favoured (Dr. GRPO, arXiv 2503.20783).
    if loss_type == "dr_grpo":
        if max_completion_length is None:
            raise ValueError("dr_grpo divides by max_completion_length: pass it.")
        return per_completion.sum() / (len(losses) * max_completion_length)
    raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}, not {loss_type!r}.")


def _check(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor) -> None:
    if not (logps.ndim == 2 and logps.shape == old_logps.shape == mask.shape and advantages.shape == logps.shape[:1]):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (logps, old_logps, advantages, mask))
        raise ValueError(
            f"logps, old_logps and mask must have shape (completions, tokens), advantages (completions,); not {shapes}."
        )


def _clip_ratios(ratio: Tensor, advantages: Tensor, mask: Tensor, epsilon: float, high: float) -> dict[str, float]:
    """Return the fraction of tokens (or sequences) whose loss is the clipped one, so that their gradient is 0."""
    low_clipped, high_clipped = (ratio < 1 - epsilon) & (advantages < 0), (ratio > 1 + high) & (advantages > 0)
    clipped = {"low": low_clipped, "high": high_clipped, "region": low_clipped | high_clipped}
    return {f"clip_ratio/{name}_mean": _mean(where, mask) for name, where in clipped.items()}


def _mean(values: Tensor, mask: Tensor) -> float:
    """Return the mean over the tokens of the mask, or over sequences if there is one value for each."""
    values = values.detach().float()
    return (values.mean() if values.shape[1] == 1 else (values * mask).sum() / mask.sum().clamp(min=1)).item()
