"""The GRPO family of losses, by TRL's names.

Shapes: `logps`, `old_logps`, `ref_logps`, `entropies` and `mask` are (completions, tokens), `advantages` is
(completions,). The mask is 1 on a completion's tokens, its end token included, and 0 on padding.
"""

import torch
from torch import Tensor

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")


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
    beta: float = 0.0,
    ref_logps: Tensor | None = None,
    kl_estimator: str = "k3",
    use_bias_correction_kl: bool = True,
    max_completion_length: int | None = None,
    num_items_in_batch: float | None = None,
    entropies: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss, a scalar to minimise, and what TRL logs about it: clip ratios, and kl and entropy where asked for.

    Names and defaults as in TRL 1.16's GRPOConfig; `kl_estimator` is this course's. On-policy, `old_logps` is
    `logps.detach()`. GSPO (arXiv 2507.18071) is importance_sampling_level="sequence" with loss_type="grpo".
    Clip-higher (2503.14476) is an `epsilon_high` above `epsilon`, its default. For dapo and cispo,
    `num_items_in_batch` is the number of tokens of the whole optimizer step, where this is only a part of it.
    Raises ValueError for an unknown name, shapes that do not fit, and a variant without what it needs.
    """
    _check(logps, old_logps, advantages, mask)
    if beta and ref_logps is None:
        raise ValueError("A KL penalty (beta above 0) needs ref_logps, the reference model's log-probabilities.")
    if loss_type == "cispo" and epsilon_high is None:
        raise ValueError("cispo caps the ratio at epsilon_high itself, not at 1 + epsilon_high: give it, say 5.0.")
    high = epsilon if epsilon_high is None else epsilon_high
    mask, advantages = mask.float(), advantages[:, None]
    ratio = importance_ratio(logps, old_logps, mask, importance_sampling_level)

    if loss_type == "cispo":
        losses = cispo_losses(ratio, advantages, logps, high)
        logged = {"cispo_clip_ratio": _mean((ratio > high) & (advantages > 0), mask)}
    else:
        losses = clipped_losses(ratio, advantages, epsilon, high)
        logged = _clip_ratios(ratio, advantages, mask, epsilon, high)
    if beta:
        kl = per_token_kl(logps, ref_logps, kl_estimator) * (ratio if use_bias_correction_kl else 1)
        losses = losses + beta * kl
        logged["kl"] = _mean(kl, mask)
    if entropies is not None:
        logged["entropy"] = _mean(entropies, mask)
    return aggregate(losses, mask, loss_type, max_completion_length, num_items_in_batch), logged


def importance_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor, level: str) -> Tensor:
    """New probability over old: of each "token", or of the "sequence", shape (completions, 1).

    The ratio of a sequence is the geometric mean of its tokens' ratios (GSPO, arXiv 2507.18071).
    """
    log_ratio = logps - old_logps
    if level == "sequence":
        log_ratio = ((log_ratio * mask).sum(1) / mask.sum(1).clamp(min=1))[:, None]
    elif level != "token":
        raise ValueError(f'importance_sampling_level must be "token" or "sequence", not {level!r}.')
    return log_ratio.exp()


def clipped_losses(ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float) -> Tensor:
    """-min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) for each token (PPO, arXiv 1707.06347)."""
    return -torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantages)


def cispo_losses(ratio: Tensor, advantages: Tensor, logps: Tensor, epsilon_high: float) -> Tensor:
    """-min(r, epsilon_high) A log p for each token, no gradient through the ratio (CISPO, arXiv 2506.13585)."""
    return -ratio.clamp(max=epsilon_high).detach() * advantages * logps


def per_token_kl(logps: Tensor, ref_logps: Tensor, estimator: str = "k3") -> Tensor:
    """Estimate KL(policy || reference) from tokens that the policy sampled: k1, k2 or k3 of Schulman (2020)."""
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
    """From one loss per token to one number: this is what separates most of the variants."""
    per_completion, lengths = (losses * mask).sum(1), mask.sum(1)
    if loss_type == "grpo":  # mean over the tokens of a completion, then over completions (arXiv 2402.03300)
        return (per_completion / lengths.clamp(min=1)).mean()
    if loss_type == "bnpo":  # mean over the tokens of this batch
        return per_completion.sum() / lengths.sum().clamp(min=1)
    if loss_type in ("dapo", "cispo"):  # mean over the tokens of the whole step (2503.14476)
        return per_completion.sum() / (lengths.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
    if loss_type == "dr_grpo":  # one and the same divisor whatever the lengths (2503.20783)
        if max_completion_length is None:
            raise ValueError("dr_grpo divides by max_completion_length: give it.")
        return per_completion.sum() / (len(losses) * max_completion_length)
    raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}, not {loss_type!r}.")


def _check(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor) -> None:
    if not (logps.ndim == 2 and logps.shape == old_logps.shape == mask.shape and advantages.shape == logps.shape[:1]):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (logps, old_logps, advantages, mask))
        raise ValueError(
            f"logps, old_logps and mask are (completions, tokens), advantages (completions,); not {shapes}."
        )


def _clip_ratios(ratio: Tensor, advantages: Tensor, mask: Tensor, epsilon: float, high: float) -> dict[str, float]:
    """Share of the tokens (or sequences) on which the clipped side is the smaller one: there the gradient is 0."""
    low_clipped, high_clipped = (ratio < 1 - epsilon) & (advantages < 0), (ratio > 1 + high) & (advantages > 0)
    clipped = {"low": low_clipped, "high": high_clipped, "region": low_clipped | high_clipped}
    return {f"clip_ratio/{name}_mean": _mean(where, mask) for name, where in clipped.items()}


def _mean(values: Tensor, mask: Tensor) -> float:
    """Mean over the tokens of the mask, or over sequences where there is one value for each."""
    values = values.detach().float()
    return (values.mean() if values.shape[1] == 1 else (values * mask).sum() / mask.sum().clamp(min=1)).item()
