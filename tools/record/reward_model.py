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
NOISES = (0.0, LABEL_NOISE)
LABELS = (30, 300, 1000)
LABELED_PROBLEMS, SAMPLES = 1100, 4  # the labels come from so many samples of each of so many training problems
TESTED_SAMPLES = 64  # of each held-out problem
BETAS = (0.03, 0.1, 0.3)
SETTINGS = {
    "model": MODEL,
    "problems": PROBLEMS,
    "noises": NOISES,
    "labels": LABELS,
    "labeled problems": LABELED_PROBLEMS,
    "samples of each": SAMPLES,
    "samples of each held-out problem": TESTED_SAMPLES,
    "betas": BETAS,
}
COLUMNS = ["seed", "noise", "labels", "accuracy", "accuracy_low", "accuracy_high", "chooser", "n"]
COLUMNS += ["truth", "low", "high"]


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train a reward model for each noise and number of labels, and choose the best of n by it, on held-out problems.

    There is a row for each chooser and each n. The accuracy is the mean pairwise accuracy with its 95% interval. Rows
    of choosers that use no reward model have no noise, labels and accuracy.
    """
    policy, tokenizer = load_policy(MODEL)
    train, held_out = split_problems(load_problems(PROBLEMS))
    asked = random.Random(seed).sample(train, LABELED_PROBLEMS)
    labeled = draw_samples(policy, tokenizer, asked, SAMPLES, seed)
    tested = draw_samples(policy, tokenizer, held_out, TESTED_SAMPLES, seed + 1)
    logps = log_probabilities(policy, tokenizer, tested)
    frames = [compare_choosers(tested, {"log p": logps}).assign(seed=seed)]
    for noise in NOISES:
        pairs = preference_pairs(labeled, max(LABELS), noise, seed)
        for count in LABELS:
            scores = scores_of(train_reward_model(policy, tokenizer, pairs[:count]), tokenizer, tested)
            choosers = {"score": scores}
            choosers |= {f"score + {beta:g} log p": with_log_probability(scores, logps, beta) for beta in BETAS}
            accuracy = dict(zip(COLUMNS[3:6], mean_accuracy(scores, tested.passed), strict=True))
            rows = compare_choosers(tested, choosers, controls=False)
            frames.append(rows.assign(seed=seed, noise=noise, labels=count, **accuracy))
    return {FILES[0]: pd.concat(frames).reindex(columns=COLUMNS)}
