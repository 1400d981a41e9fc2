"""Notebook 02: binary or partial credit? Both train the same model for 40 steps, and the full tests judge both."""

import tempfile
from dataclasses import asdict, replace

import pandas as pd

from helpers.evaluation import evaluate
from helpers.policy import load_policy
from helpers.problems import load_problems, split_problems
from helpers.profiles import Settings, profile_settings
from helpers.rewards import fraction_of_tests, passes_tests
from helpers.training import build_trainer, history_frame

CURVES, SCORES = FILES = ("partial_reward_curves.csv", "partial_reward_scores.csv")
REWARDS = {"binary": passes_tests, "partial": fraction_of_tests}
PROFILE = replace(profile_settings("tiny"), max_steps=40)
SETTINGS = {name: value for name, value in asdict(PROFILE).items() if name != "seed"}
COLUMNS = ["step", "reward", "passes_tests", "fraction_of_tests", "frac_reward_zero_std"]


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train with binary and with partial credit. The other reward only watches: its weight is 0."""
    return train_with_each(replace(PROFILE, seed=seed))


def train_with_each(settings: Settings) -> dict[str, pd.DataFrame]:
    """Train once with each reward. Returns the history of each run, and the held-out scores before and after."""
    train, held_out = split_problems(load_problems(settings.problems))
    sampling = {"num_samples": settings.eval_samples, **settings.sampling}
    before = evaluate(*load_policy(settings.model), held_out, **sampling).scores()
    curves, scores = [], [{"seed": settings.seed, "trained_with": "nothing"} | _means(before)]
    for name, reward in REWARDS.items():
        model, tokenizer = load_policy(settings.model)
        both = [reward, *(other for other in REWARDS.values() if other is not reward)]
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(settings, model, tokenizer, train, both, folder, reward_weights=[1.0, 0.0])
            trainer.train()
        run = {"seed": settings.seed, "trained_with": name}
        curves.append(history_frame(trainer)[COLUMNS].assign(**run)[[*run, *COLUMNS]])
        scores.append(run | _means(evaluate(model, tokenizer, held_out, **sampling).scores()))
    return {CURVES: pd.concat(curves), SCORES: pd.DataFrame(scores)}


def _means(scores: dict) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in scores.items()}
