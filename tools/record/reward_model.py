"""Notebook 01: how good is a choice by a learned reward, compared with choices by scores that know nothing?"""

import random

import pandas as pd

from helpers.policy import load_policy
from helpers.preferences import (
    LABEL_NOISE,
    compare_choosers,
    draw_samples,
    log_probabilities,
    mean_accuracy,
    preference_pairs,
    scores_of,
    train_reward_model,
    with_log_probability,
)
from helpers.problems import load_problems, split_problems

FILES = ("reward_model.csv",)
MODEL, PROBLEMS = "data/tiny_coder", "tiny"
LABELED_PROBLEMS, SAMPLES, LABELS = 1100, 4, 1000  # labels come from so many samples of each of so many problems
TESTED_SAMPLES = 64  # of each held-out problem
BETAS = (0.03, 0.1, 0.3)
SETTINGS = {
    "model": MODEL,
    "problems": PROBLEMS,
    "noise": LABEL_NOISE,
    "labels": LABELS,
    "labeled problems": LABELED_PROBLEMS,
    "samples of each": SAMPLES,
    "samples of each held-out problem": TESTED_SAMPLES,
    "betas": BETAS,
}
COLUMNS = ["seed", "accuracy", "accuracy_low", "accuracy_high", "chooser", "n", "truth", "low", "high"]


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train a reward model, and choose the best of n held-out completions by it and by scores that know nothing.

    There is a row for each chooser and each n. The accuracy is the reward model's mean pairwise accuracy with its 95%
    interval, the same in all rows of a seed.
    """
    policy, tokenizer = load_policy(MODEL)
    train, held_out = split_problems(load_problems(PROBLEMS))
    asked = random.Random(seed).sample(train, LABELED_PROBLEMS)
    pairs = preference_pairs(draw_samples(policy, tokenizer, asked, SAMPLES, seed), LABELS, LABEL_NOISE, seed)
    tested = draw_samples(policy, tokenizer, held_out, TESTED_SAMPLES, seed + 1)
    scores = scores_of(train_reward_model(policy, tokenizer, pairs), tokenizer, tested)
    logps = log_probabilities(policy, tokenizer, tested)
    choosers = {"score": scores, "log p": logps}
    choosers |= {f"score + {beta:g} log p": with_log_probability(scores, logps, beta) for beta in BETAS}
    accuracy = dict(zip(COLUMNS[1:4], mean_accuracy(scores, tested.passed), strict=True))
    rows = compare_choosers(tested, choosers).assign(seed=seed, **accuracy)
    return {FILES[0]: rows[COLUMNS]}
