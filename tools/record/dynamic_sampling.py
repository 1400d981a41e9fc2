"""Notebook 03: silent groups replaced by others, at the same number of completions (dynamic sampling).

A batch of replaced groups costs more completions, so such a run makes fewer updates with them. TRL 1.16 has no dynamic
sampling.
"""

from dataclasses import replace

import pandas as pd

from helpers.profiles import Settings, profile_settings
from tools.record.loop import Rows, control, held_out_scores, prepare, run_by_run, settings_of, train

CURVES, SCORES = FILES = ("dynamic_sampling_curves.csv", "dynamic_sampling_scores.csv")
PROFILE = profile_settings("tiny")
RUNS = {
    "as sampled": ("verifier", False),
    "silent groups replaced": ("verifier", True),
    "random reward, silent groups replaced": ("random", True),
}
SETTINGS = settings_of(PROFILE, runs=list(RUNS))


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train with each of RUNS. The run "before" has the scores of the untrained model."""
    return measure_with(replace(PROFILE, seed=seed))


def measure_with(settings: Settings) -> dict[str, pd.DataFrame]:
    """Train with each of RUNS, from the same model, on the same problems in the same order."""
    start = prepare(settings)

    def run(reward: str, replaced: bool) -> Rows:
        policy = start.fresh_policy()
        made = control(reward, settings.seed)
        curve = train(policy, start.tokenizer, start.train, settings, made, replace_silent=replaced)
        totals = {"completions": curve[-1]["completions"], "updates": curve[-1]["updates"]}
        totals["train_seconds"] = sum(row["seconds"] for row in curve)
        return {CURVES: curve, SCORES: [totals | held_out_scores(start, policy)[0]]}

    nothing = {"completions": 0, "updates": 0, "train_seconds": 0.0}
    runs = {"before": lambda: {SCORES: [nothing | held_out_scores(start, start.policy)[0]]}}
    runs |= {name: lambda given=given: run(*given) for name, given in RUNS.items()}
    return run_by_run("dynamic-sampling", settings, SETTINGS, FILES, runs)
