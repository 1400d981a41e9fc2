"""Notebook 03: does its own training loop learn as well as GRPOTrainer with the same settings?

The loop is not copied: the notebook's cells tagged `by-hand` are run.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import torch

from helpers.evaluation import evaluate
from helpers.policy import load_policy
from helpers.problems import load_problems, split_problems
from helpers.profiles import Settings, profile_settings
from helpers.rewards import passes_tests
from helpers.runtime import CourseError, project_root
from helpers.training import build_trainer, history_frame
from tools.hygiene import source_of, tags_of

CURVES, SCORES = FILES = ("by_hand_curves.csv", "by_hand_scores.csv")
NOTEBOOK = "notebooks/03_group_relative_advantages.ipynb"
METHODS = ("by hand", "GRPOTrainer")
COLUMNS = ["reward", "frac_reward_zero_std", "seconds"]  # of a step
PROFILE = profile_settings("tiny")
SETTINGS = {name: value for name, value in asdict(PROFILE).items() if name != "seed"}
Loop = Callable[..., list[tuple[float, ...]]]


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train both ways: the rewards and seconds of each step, and the held-out scores before and after."""
    return compare_methods(replace(PROFILE, seed=seed), loop_of(project_root() / NOTEBOOK))


def loop_of(path: Path) -> Loop:
    """Run the notebook's cells that are tagged `by-hand`, and return the function `train_by_hand` that they define.

    Raises CourseError if they do not define it.
    """
    names: dict[str, Any] = {"__name__": "by_hand"}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "by-hand" in tags_of(cell):
            exec(compile(source_of(cell), cell.get("id", "by-hand"), "exec"), names)
    if "train_by_hand" not in names:
        raise CourseError(f"The cells of {path.name} that are tagged by-hand do not define train_by_hand.")
    return names["train_by_hand"]


def compare_methods(settings: Settings, loop: Loop) -> dict[str, pd.DataFrame]:
    """Train with both methods, each from the same model, and evaluate before and after."""
    train, held_out = split_problems(load_problems(settings.problems))
    sampling = {"num_samples": settings.eval_samples, "temperature": settings.eval_temperature, **settings.sampling}
    torch.set_num_threads(min(settings.threads, torch.get_num_threads()))
    before = evaluate(*load_policy(settings.model), held_out, **sampling).summary()
    curves, scores = [], []
    # Odd seeds swap the order, so that a machine that becomes busier favours neither method.
    for method in METHODS if settings.seed % 2 else METHODS[::-1]:
        model, tokenizer = load_policy(settings.model)
        if method == "GRPOTrainer":
            history, seconds = _train_with_trl(model, tokenizer, train, settings)
        else:
            history, seconds = _train_by_hand(loop, model, tokenizer, train, settings)
        after = evaluate(model, tokenizer, held_out, **sampling).summary()
        run = {"method": method, "seed": settings.seed}
        steps = history[COLUMNS].assign(step=range(1, len(history) + 1), **run)
        curves.append(steps[[*run, *COLUMNS, "step"]])
        reached = {
            f"{name} {when}": at[name] for when, at in (("before", before), ("after", after)) for name in at["interval"]
        }
        scores.append(run | {"threads": torch.get_num_threads(), "train_seconds": seconds} | reached)
    return {CURVES: pd.concat(curves), SCORES: pd.DataFrame(scores)}


def _train_by_hand(loop: Loop, *given: Any) -> tuple[pd.DataFrame, float]:
    start = perf_counter()
    history = loop(*given)
    return pd.DataFrame(history, columns=COLUMNS), perf_counter() - start


def _train_with_trl(model: Any, tokenizer: Any, problems: Any, settings: Settings) -> tuple[pd.DataFrame, float]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(settings, model, tokenizer, problems, passes_tests, folder)
        trainer.train()
    return history_frame(trainer), trainer.train_seconds
