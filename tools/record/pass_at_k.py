"""Notebook 06: pass@k for k up to 64, before and after training. Do the curves cross?

A trained model that only samples less widely has a higher pass@1 and a lower pass@64. Training on a random reward is
the control.
"""

from dataclasses import replace

import pandas as pd

from helpers.evaluation import Evaluation
from helpers.profiles import Settings, profile_settings
from tools.record.loop import Row, Rows, control, held_out_scores, prepare, run_by_run, settings_of, train

CURVES, PROBLEMS = FILES = ("pass_at_k.csv", "pass_at_k_problems.csv")
PROFILE = replace(profile_settings("tiny"), eval_samples=64)
RUNS = {"after training": "verifier", "after training on a random reward": "random"}
SETTINGS = settings_of(PROFILE, runs=list(RUNS))


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Sample 64 completions of each held-out problem before training, and after each of RUNS."""
    return measure_with(replace(PROFILE, seed=seed))


def measure_with(settings: Settings) -> dict[str, pd.DataFrame]:
    """Sample `eval_samples` completions of each held-out problem before training, and after each of RUNS."""
    start = prepare(settings)

    def run(reward: str) -> Rows:
        policy = start.fresh_policy()
        train(policy, start.tokenizer, start.train, settings, control(reward, settings.seed))
        return rows_of(held_out_scores(start, policy)[1])

    runs = {"before training": lambda: rows_of(held_out_scores(start, start.policy)[1])}
    runs |= {name: lambda reward=reward: run(reward) for name, reward in RUNS.items()}
    return run_by_run("pass-at-k", settings, SETTINGS, FILES, runs)


def rows_of(found: Evaluation) -> Rows:
    """Return the curve, a row for each k, and the counts, a row for each problem."""
    curve: list[Row] = found.pass_at_k_curve().to_dict("records")
    counts = zip(found.task_ids, found.correct, found.completions, found.greedy, strict=True)
    problems = [
        {"task_id": task_id, "correct": correct, "distinct": len(set(texts)), "greedy": int(greedy)}
        for task_id, correct, texts, greedy in counts
    ]
    return {CURVES: curve, PROBLEMS: problems}
