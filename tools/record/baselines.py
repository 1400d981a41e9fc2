"""Notebook 03: what does the baseline do to learning? The same run with other advantages, everything else the same."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
from torch import Tensor

from helpers.advantages import group_advantages
from helpers.profiles import Settings, profile_settings
from tools.record.loop import Advantages, Rows, control, held_out_scores, prepare, run_by_run, settings_of, train

CURVES, SCORES = FILES = ("baselines_curves.csv", "baselines_scores.csv")
PROFILE = profile_settings("tiny")
REST = 0.9  # of the running mean that stays when a batch is added


def without_baseline() -> Advantages:
    """A = r: no completion is pushed down."""
    return lambda rewards, size: rewards.clone()


def minus(number: float) -> Callable[[], Advantages]:
    """A = r - number. With 1, no completion is pushed up."""
    return lambda: lambda rewards, size: rewards - number


def running_mean() -> Advantages:
    """A = r minus a running mean of the rewards of all earlier batches. The first batch uses its own mean."""
    known: list[Tensor] = []

    def advantages(rewards: Tensor, size: int) -> Tensor:
        baseline = known.pop() if known else rewards.mean()
        known.append(REST * baseline + (1 - REST) * rewards.mean())
        return rewards - baseline

    return advantages


def group_mean(scale: str) -> Callable[[], Advantages]:
    """A = r minus the mean of its group, divided as in `helpers.advantages.group_advantages`."""
    return lambda: lambda rewards, size: group_advantages(rewards, size, scale)


BASELINES: dict[str, Callable[[], Advantages]] = {
    "group mean": group_mean("none"),
    "group mean, divided by the spread": group_mean("group"),
    "none (A = r)": without_baseline,
    "A = r - 1": minus(1.0),
    "A = r - 0.5": minus(0.5),
    "running mean": running_mean,
}
# Controls: what the advantages do by themselves, without any information in the reward.
RUNS = {name: (name, "verifier") for name in BASELINES} | {
    "random reward, group mean": ("group mean", "random"),
    "random reward, none (A = r)": ("none (A = r)", "random"),
    "constant reward, none (A = r)": ("none (A = r)", "constant"),
}
SETTINGS = settings_of(PROFILE, runs=list(RUNS), rest_of_running_mean=REST)


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train with each of RUNS. The run "before" has the scores of the untrained model."""
    return measure_with(replace(PROFILE, seed=seed))


def measure_with(settings: Settings) -> dict[str, pd.DataFrame]:
    """Train with each of RUNS, from the same model, on the same problems in the same order."""
    start = prepare(settings)

    def run(baseline: str, reward: str) -> Rows:
        policy = start.fresh_policy()
        made = control(reward, settings.seed)
        advantages = BASELINES[baseline]()
        curve = train(policy, start.tokenizer, start.train, settings, made, advantages=advantages)
        kind = {"baseline": baseline, "reward_function": reward}
        return {CURVES: [kind | row for row in curve], SCORES: [kind | held_out_scores(start, policy)[0]]}

    runs = {"before": lambda: {SCORES: [held_out_scores(start, start.policy)[0]]}}
    runs |= {name: lambda given=given: run(*given) for name, given in RUNS.items()}
    return run_by_run("baselines", settings, SETTINGS, FILES, runs)
