"""Notebook 05: the same batch used for several updates, with and without clipping, and the variants made for that.

All runs sample the same number of completions. With one update per batch the ratio of new to old probability is 1, and
the variants do the same, up to their weights. With four or eight it is not, so this is where they can differ.
"""

from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from helpers.losses import importance_ratio
from helpers.profiles import Settings, profile_settings
from tools.record.loop import Loss, Rows, control, held_out_scores, loss_of, prepare, run_by_run, settings_of, train

CURVES, SCORES = FILES = ("reuse_curves.csv", "reuse_scores.csv")
PROFILE = replace(profile_settings("tiny"), eval_samples=4)
UNCLIPPED = {"epsilon": 1e6}
GSPO = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}
DELTA = 1.5  # the upper end of the ratio if the advantage is negative; above 1 + epsilon
LUSPO = {"epsilon": GSPO["epsilon"], "epsilon_high": GSPO["epsilon_high"]}  # so that only the weight by length differs
VESPO = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}  # TRL's defaults


def two_sided(settings: Settings, delta: float) -> Loss:
    """Return the clipped loss whose unclipped term is bounded by `delta` (INTELLECT-2, arXiv 2505.07291, section 3.4).

    Without the bound, a negative advantage has no upper limit on the ratio.
    """

    def loss(logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        ratio, target = (logps - old).exp(), advantages[:, None]
        near = ratio.clamp(1 - settings.epsilon, 1 + settings.epsilon)
        losses = -torch.min(ratio.clamp(max=delta) * target, near * target)
        return (losses * mask).sum() / (len(losses) * settings.max_completion_length)

    return loss


def luspo(epsilon: float, epsilon_high: float) -> Loss:
    """Return LUSPO's loss: GSPO's, each completion weighted by its length (arXiv 2602.05261)."""

    def loss(logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        ratio, target = importance_ratio(logps, old, mask, "sequence"), advantages[:, None]
        losses = -torch.min(ratio * target, ratio.clamp(1 - epsilon, 1 + epsilon_high) * target)
        return (losses * mask).sum(1).mean()

    return loss


def vespo(k_pos: float, lambda_pos: float, k_neg: float, lambda_neg: float) -> Loss:
    """Return VESPO's loss: -phi(w) A log p per token, with phi(w) = w^k e^(lambda (1 - w)) (arXiv 2602.10693).

    w is the ratio of the whole completion, the product over its tokens, and no gradient flows through phi.
    """

    def loss(logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        target = advantages[:, None]
        log_w = ((logps - old).detach().clamp(-20, 20) * mask).sum(1, keepdim=True).clamp(-18.42068, 20)
        k, decay = torch.where(target >= 0, k_pos, k_neg), torch.where(target >= 0, lambda_pos, lambda_neg)
        phi = (k * log_w + decay * (1 - log_w.exp())).exp()
        return (-phi * target * logps * mask).sum() / mask.sum()

    return loss


def losses(settings: Settings) -> dict[str, tuple[int, Loss, str]]:
    """Return what the runs are made of: updates per batch, loss and reward."""
    clipped, unclipped = loss_of(settings), loss_of(settings, **UNCLIPPED)
    return {
        "1 update": (1, clipped, "verifier"),
        "4 updates": (4, clipped, "verifier"),
        "4 updates, not clipped": (4, unclipped, "verifier"),
        "8 updates": (8, clipped, "verifier"),
        "8 updates, not clipped": (8, unclipped, "verifier"),
        "4 updates, clip-higher": (4, loss_of(settings, epsilon_high=0.28), "verifier"),
        "4 updates, two-sided": (4, two_sided(settings, DELTA), "verifier"),
        "4 updates, CISPO": (4, loss_of(settings, loss_type="cispo", epsilon_high=5.0), "verifier"),
        "4 updates, GSPO": (4, loss_of(settings, **GSPO), "verifier"),
        "4 updates, SAPO": (4, loss_of(settings, loss_type="sapo"), "verifier"),
        "4 updates, LUSPO": (4, luspo(**LUSPO), "verifier"),
        "4 updates, VESPO": (4, vespo(**VESPO), "verifier"),
        "random reward, 4 updates": (4, clipped, "random"),
    }


SETTINGS = settings_of(PROFILE, runs=list(losses(PROFILE)), gspo=GSPO, delta=DELTA, luspo=LUSPO, vespo=VESPO)


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train with each of the losses. The run "before" has the scores of the untrained model."""
    return measure_with(replace(PROFILE, seed=seed))


def measure_with(settings: Settings) -> dict[str, pd.DataFrame]:
    """Train with each of the losses, from the same model, on the same problems in the same order."""
    start = prepare(settings)

    def run(updates: int, loss: Loss, reward: str) -> Rows:
        policy = start.fresh_policy()
        made = control(reward, settings.seed)
        curve = train(policy, start.tokenizer, start.train, settings, made, loss=loss, updates=updates)
        totals = {"updates": curve[-1]["updates"], "train_seconds": sum(row["seconds"] for row in curve)}
        return {CURVES: curve, SCORES: [totals | held_out_scores(start, policy)[0]]}

    nothing = {"updates": 0, "train_seconds": 0.0}
    runs = {"before": lambda: {SCORES: [nothing | held_out_scores(start, start.policy)[0]]}}
    runs |= {name: lambda given=given: run(*given) for name, given in losses(settings).items()}
    return run_by_run("reuse", settings, SETTINGS, FILES, runs)
