"""Notebook 02: what does the bundled model learn from v1, which trusts the exit code, and what from the real verifier?

Both runs start from the same model, with the same settings and seed. The real verifier is the control.
"""

import tempfile
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from helpers.cheats import exit_code_reward, writes_exit
from helpers.evaluation import evaluate
from helpers.policy import load_policy
from helpers.problems import load_problems, split_problems
from helpers.profiles import Settings, profile_settings
from helpers.rewards import passes_tests
from helpers.training import build_trainer, history_frame

CURVES, SCORES = FILES = ("hacking_curves.csv", "hacking_scores.csv")
REWARDS = {"v1": exit_code_reward, "verifier": passes_tests}
PROFILE = replace(profile_settings("tiny"), max_steps=50)
SETTINGS = {name: value for name, value in asdict(PROFILE).items() if name != "seed"}
COLUMNS = ["step", "reward", "exit_code_reward", "passes_tests", "writes_exit", "entropy", "completion_length"]


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train with each of REWARDS. The other one and `writes_exit` only watch: their weight is 0."""
    return train_with_each(replace(PROFILE, seed=seed))


def train_with_each(settings: Settings) -> dict[str, pd.DataFrame]:
    """Train once with each reward. Returns the history of each run, and what the policies write when held out."""
    train, held_out = split_problems(load_problems(settings.problems))
    before = _held_out(*load_policy(settings.model), held_out, settings)
    curves, scores = [], [{"seed": settings.seed, "trained_with": "nothing"} | before]
    for name, reward in REWARDS.items():
        model, tokenizer = load_policy(settings.model)
        others = [other for other in REWARDS.values() if other is not reward]
        watched = [reward, *others, writes_exit]
        weights = [1.0] + [0.0] * (len(watched) - 1)
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(settings, model, tokenizer, train, watched, folder, reward_weights=weights)
            trainer.train()
        run = {"seed": settings.seed, "trained_with": name}
        curves.append(history_frame(trainer)[COLUMNS].assign(**run)[[*run, *COLUMNS]])
        scores.append(run | _held_out(model, tokenizer, held_out, settings))
    return {CURVES: pd.concat(curves), SCORES: pd.DataFrame(scores)}


def _held_out(model: Any, tokenizer: Any, problems: Any, settings: Settings) -> dict[str, float]:
    """Return greedy, pass@1 and the fraction of the samples that write an exit, on held-out problems."""
    found = evaluate(model, tokenizer, problems, num_samples=settings.eval_samples, **settings.sampling)
    texts = [text for texts in found.completions for text in texts]
    scores = {name: float(values.mean()) for name, values in found.scores().items()}
    return scores | {"writes_exit": sum(writes_exit(texts)) / len(texts)}
