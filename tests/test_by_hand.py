"""The experiment `by-hand`: it runs the notebook's own cells, and compares both ways from the same start."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from small_run import small_settings, vowels

from helpers.runtime import CourseError
from tools.record import by_hand


def notebook(folder, *cells):
    """A notebook of (source, tag) cells."""
    path = folder / "loop.ipynb"
    made = [{"cell_type": "code", "source": source, "metadata": {"tags": [tag]}} for source, tag in cells]
    path.write_text(json.dumps({"cells": made}))
    return path


def test_the_loop_is_what_the_tagged_cells_make(tmp_path):
    path = notebook(
        tmp_path,
        ("steps = 3", "by-hand"),
        ("steps = 5\nraise RuntimeError", "exercise"),
        ("def train_by_hand():\n    return steps", "by-hand"),
    )
    assert by_hand.loop_of(path)() == 3
    with pytest.raises(CourseError, match=r"cells of loop.ipynb .* do not define"):
        by_hand.loop_of(notebook(tmp_path, ("def train_by_hand(): ...", "exercise")))


def test_the_notebook_s_loop_has_about_100_lines(root):
    cells = json.loads((root / by_hand.NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if "by-hand" in cell["metadata"].get("tags", []))
    assert 95 <= sum(bool(line.strip()) for line in source.splitlines()) <= 105
    imports = [line for line in source.splitlines() if line.startswith(("import", "from helpers"))]
    # Nothing is hidden: apart from torch, only the verifier is imported from elsewhere.
    assert imports == ["import torch", "from helpers.rewards import passes_tests"]


def test_both_ways_are_measured_from_the_same_start(tmp_path, root, monkeypatch):
    settings = small_settings(tmp_path)
    monkeypatch.setattr(by_hand, "passes_tests", vowels_of)
    loop = by_hand.loop_of(root / by_hand.NOTEBOOK)
    # Two steps are one pass over the problems, which is all that the loop does. With a penalty it needs its reference,
    # which the recorded runs do not use.
    measured = by_hand.compare_methods(replace(settings, beta=0.04, max_steps=2), loop)
    curves, scores = (measured[name] for name in by_hand.FILES)
    for method in by_hand.METHODS:
        steps = curves[curves["method"] == method]
        assert list(steps["step"]) == [1, 2]
        assert steps["reward"].between(0, 1).all() and (steps["seconds"] > 0).all()
    for frame, name in ((curves, by_hand.CURVES), (scores, by_hand.SCORES)):
        assert list(frame) == list(pd.read_csv(root / "data/measurements" / name)), "rows can be added to the record"
    assert scores["greedy before"].nunique() == scores["pass@1 before"].nunique() == 1
    assert set(scores.columns) >= {"train_seconds", "threads", "greedy after", "pass@1 after", "pass@8 after"}
    assert [frame["method"].iloc[0] for frame in (curves, scores)] == ["GRPOTrainer"] * 2


def vowels_of(prompts, completions, **columns):
    return vowels(completions)


def test_the_recorded_runs_are_those_of_the_notebook_s_settings(root):
    folder = root / "data/measurements"
    curves, scores = (pd.read_csv(folder / name) for name in (by_hand.CURVES, by_hand.SCORES))
    for frame, rows in ((curves, by_hand.PROFILE.max_steps), (scores, 1)):
        counts = frame.groupby(["method", "seed"]).size()
        seeds = {seed for _, seed in counts.index}
        assert seeds >= {0, 1, 2}
        assert set(counts.index) == {(method, seed) for method in by_hand.METHODS for seed in seeds}
        assert (counts == rows).all()
