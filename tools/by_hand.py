"""Three seeds of notebook 03's own training loop and of GRPOTrainer, with the same settings, into two CSV files.

    python -m tools.by_hand --output data/measurements

The loop is not copied: the cells of the notebook that are tagged `by-hand` are run.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd

from helpers.profiles import Settings, profile_settings
from helpers.runtime import CourseError, offline, project_root, quieten, share_cores
from tools.hygiene import source_of, tags_of

NOTEBOOK = "notebooks/03_group_relative_advantages.ipynb"
CURVES, SCORES = "by_hand_curves.csv", "by_hand_scores.csv"
METHODS = ("by hand", "GRPOTrainer")
COLUMNS = ("reward", "frac_reward_zero_std", "seconds")  # of a step
Loop = Callable[..., list[tuple[float, ...]]]


def loop_of(path: Path) -> Loop:
    """The function `train_by_hand` that the notebook's cells tagged `by-hand` make, run in their order.

    Raises CourseError where they make none.
    """
    names: dict[str, Any] = {"__name__": "by_hand"}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "by-hand" in tags_of(cell):
            exec(compile(source_of(cell), cell.get("id", "by-hand"), "exec"), names)
    if "train_by_hand" not in names:
        raise CourseError(f"No cell of {path.name} that is tagged by-hand makes train_by_hand.")
    return names["train_by_hand"]


def measure(settings: Settings, loop: Loop) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train both ways from the same model; returns a row per method and step, and a row per method.

    Which of the two goes first changes with the seed, so that a machine that gets busier favours neither.
    """
    import torch

    from helpers.evaluation import evaluate
    from helpers.policy import load_policy
    from helpers.problems import load_problems, split_problems

    train, held_out = split_problems(load_problems(settings.problems))
    sampling = {"num_samples": settings.eval_samples, "temperature": settings.eval_temperature, **settings.sampling}
    torch.set_num_threads(min(settings.threads, torch.get_num_threads()))
    before = evaluate(*load_policy(settings.model), held_out, **sampling).summary()
    names, curves, scores = list(before["interval"]), [], []
    for method in METHODS if settings.seed % 2 else METHODS[::-1]:
        model, tokenizer = load_policy(settings.model)
        run = _train_with_trl if method == "GRPOTrainer" else partial(_train_by_hand, loop)
        history, seconds = run(model, tokenizer, train, settings)
        after = evaluate(model, tokenizer, held_out, **sampling).summary()
        named = {"method": method, "seed": settings.seed}
        curves.append(history[list(COLUMNS)].assign(step=range(1, len(history) + 1), **named))
        reached = {f"{name} {when}": at[name] for when, at in (("before", before), ("after", after)) for name in names}
        scores.append(named | {"threads": torch.get_num_threads(), "train_seconds": seconds} | reached)
    return pd.concat(curves).set_index(["method", "seed"]), pd.DataFrame(scores).set_index(["method", "seed"])


def _train_by_hand(loop: Loop, *given: Any) -> tuple[pd.DataFrame, float]:
    start = perf_counter()
    history = loop(*given)
    return pd.DataFrame(history, columns=COLUMNS), perf_counter() - start


def _train_with_trl(model: Any, tokenizer: Any, problems: Any, settings: Settings) -> tuple[pd.DataFrame, float]:
    from helpers.rewards import passes_tests
    from helpers.training import build_trainer, history_frame

    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(settings, model, tokenizer, problems, passes_tests, folder)
        trainer.train()
    return history_frame(trainer), trainer.train_seconds


def record(frame: pd.DataFrame, path: Path) -> None:
    """Add the rows to a CSV file, below what it holds."""
    rows = frame.round(4).reset_index()
    rows.to_csv(path, mode="a", header=not path.exists(), index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.by_hand", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help=f"folder for {CURVES} and {SCORES}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each is added; none is replaced")
    parser.add_argument("--profile", default="tiny")
    chosen = parser.parse_args(arguments)
    try:
        settings = profile_settings(chosen.profile)
        recorded = set(pd.read_csv(chosen.output / SCORES)["seed"]) if (chosen.output / SCORES).exists() else set()
        if there := sorted(recorded & set(chosen.seeds)):
            raise CourseError(f"{chosen.output / SCORES} holds seed {there[0]} already: name another folder or seed.")
        quieten()
        share_cores()
        offline()
        loop = loop_of(project_root() / NOTEBOOK)
        for seed in chosen.seeds:
            curves, scores = measure(replace(settings, seed=seed), loop)
            record(curves, chosen.output / CURVES)
            record(scores, chosen.output / SCORES)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
