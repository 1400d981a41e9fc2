"""Notebook 06: how good must a verifier be? The same run of the bundled model under verifiers that err.

The controls are the coin (verdicts flipped in half of the cases), the constant reward and the reward for length.
"""

from dataclasses import replace

import pandas as pd

from helpers.problems import Problem
from helpers.profiles import Settings, profile_settings
from tools.record.loop import Row, Rows, Start, held_out_scores, prepare, run_by_run, settings_of, train
from tools.record.weak_verifiers import LONGEST, errors, rewards_for

CURVES, SCORES = FILES = ("verifier_quality_curves.csv", "verifier_quality_scores.csv")
PROFILE = replace(profile_settings("tiny"), eval_samples=4)
SETTINGS = settings_of(PROFILE, runs=list(rewards_for(0)), longest=LONGEST)
STEP_OF_EVALUATION = -1  # the tosses of a random verdict are others than in training


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train under each verifier. Columns of errors: those of `weak_verifiers.errors`."""
    return measure_with(replace(PROFILE, seed=seed))


def measure_with(settings: Settings) -> dict[str, pd.DataFrame]:
    """Train under each verifier, from the same model, on the same problems in the same order.

    The scores of a run have the errors of its verifier on the held-out samples of the untrained policy ("before ...")
    and on those of its own policy, next to what that policy reaches.
    """
    start = prepare(settings)
    truth, samples = held_out_scores(start, start.policy)

    def run(name: str) -> Rows:
        reward, policy = rewards_for(settings.seed)[name], start.fresh_policy()
        curve = train(policy, start.tokenizer, start.train, settings, reward)
        scores, found = held_out_scores(start, policy)
        before = {f"before {key}": value for key, value in held_out_errors(start, samples, name).items()}
        return {CURVES: curve, SCORES: [scores | held_out_errors(start, found, name) | before]}

    runs = {"before": lambda: {SCORES: [truth | held_out_errors(start, samples, "helpers.verifier, 8 asserts")]}}
    runs |= {name: lambda name=name: run(name) for name in rewards_for(settings.seed)}
    return run_by_run("verifier-quality", settings, SETTINGS, FILES, runs)


def held_out_errors(start: Start, found: object, name: str) -> Row:
    """Return the errors of a verifier on the samples of an evaluation, and its mean reward."""
    rows: list[tuple[Problem, str, bool]] = [
        row
        for problem, texts, passed in zip(start.held_out, found.completions, found.passed, strict=True)
        for row in zip([problem] * len(texts), texts, passed, strict=True)
    ]
    problems, texts, truth = (list(column) for column in zip(*rows, strict=True))
    rewards, _ = rewards_for(start.settings.seed)[name](problems, texts, STEP_OF_EVALUATION)
    return {"reward": sum(rewards) / len(rewards)} | errors(rewards, [float(right) for right in truth], texts)
