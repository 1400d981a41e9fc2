"""Notebook 01: how well does a learned reward replace the verifier, with more labels, with less noise, for larger n?"""

import random

import pandas as pd

from helpers.policy import load_policy
from helpers.preferences import (
    CURVE,
    LABEL_NOISE,
    SIZES,
    best_of_n_curve,
    draw_samples,
    mean_accuracy,
    preference_pairs,
    scores_of,
    train_reward_model,
)
from helpers.problems import load_problems, split_problems

FILES = ("reward_model.csv",)
MODEL, PROBLEMS = "data/tiny_coder", "tiny"
NOISES = (0.0, LABEL_NOISE)
LABELS = (30, 100, 300, 1000)
LABELED_PROBLEMS, SAMPLES = 1100, 4  # the labels come from so many samples of each of so many training problems
SETTINGS = {
    "model": MODEL,
    "problems": PROBLEMS,
    "noises": NOISES,
    "labels": LABELS,
    "labeled problems": LABELED_PROBLEMS,
    "samples of each": SAMPLES,
    "n": SIZES,
}
COLUMNS = ["seed", "noise", "labels", "accuracy", "accuracy_low", "accuracy_high", *CURVE]


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train a reward model for each noise and number of labels, and test it on all held-out problems: a row for each n.

    The accuracy is the mean pairwise accuracy with its 95 % interval; the other columns are those of `best_of_n_curve`.
    """
    policy, tokenizer = load_policy(MODEL)
    train, held_out = split_problems(load_problems(PROBLEMS))
    asked = random.Random(seed).sample(train, LABELED_PROBLEMS)
    labeled = draw_samples(policy, tokenizer, asked, SAMPLES, seed)
    tested = draw_samples(policy, tokenizer, held_out, max(SIZES), seed + 1)
    frames = []
    for noise in NOISES:
        pairs = preference_pairs(labeled, max(LABELS), noise, seed)
        for count in LABELS:
            scores = scores_of(train_reward_model(policy, tokenizer, pairs[:count]), tokenizer, tested)
            accuracy = dict(zip(COLUMNS[3:6], mean_accuracy(scores, tested.passed), strict=True))
            curve = best_of_n_curve(scores, tested.passed)
            frames.append(curve.assign(seed=seed, noise=noise, labels=count, **accuracy))
    return {FILES[0]: pd.concat(frames)[COLUMNS]}
