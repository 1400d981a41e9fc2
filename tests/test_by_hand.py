"""tools/by_hand.py: it runs the notebook's own cells, and never writes over what is recorded."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from small_run import small_settings, vowels

from helpers import rewards
from helpers.profiles import PROFILES
from helpers.runtime import CourseError
from tools import by_hand


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
    with pytest.raises(CourseError, match="No cell of loop.ipynb"):
        by_hand.loop_of(notebook(tmp_path, ("def train_by_hand(): ...", "exercise")))


def test_the_notebook_s_loop_has_at_most_80_lines(root):
    cells = json.loads((root / by_hand.NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if "by-hand" in cell["metadata"].get("tags", []))
    assert 40 < sum(bool(line.strip()) for line in source.splitlines()) <= 80


def test_both_ways_are_measured_from_the_same_start(tmp_path, root, monkeypatch):
    settings = small_settings(tmp_path)
    monkeypatch.setattr(rewards, "passes_tests", vowels_of)
    loop = by_hand.loop_of(root / by_hand.NOTEBOOK)
    # Two steps are one pass over the problems, which is all that the loop does. With a penalty it needs its reference,
    # which the recorded runs do not use.
    curves, scores = by_hand.measure(replace(settings, beta=0.04, max_steps=2), loop)
    for method in by_hand.METHODS:
        steps = curves.loc[method]
        assert list(steps["step"]) == [1, 2]
        assert steps["reward"].between(0, 1).all() and (steps["seconds"] > 0).all()
    assert scores["greedy before"].nunique() == scores["pass@1 before"].nunique() == 1
    assert set(scores.columns) >= {"train_seconds", "threads", "greedy after", "pass@1 after", "pass@8 after"}
    order = [frame.index.get_level_values("method")[0] for frame in (curves, scores)]
    assert order == ["GRPOTrainer"] * 2


def vowels_of(prompts, completions, **columns):
    return vowels(completions)


def test_seeds_are_added_and_none_is_replaced(tmp_path, monkeypatch, capsys):
    def measure(settings, loop):
        index = pd.MultiIndex.from_tuples([("by hand", settings.seed)], names=["method", "seed"])
        return pd.DataFrame({"reward": [0.5]}, index), pd.DataFrame({"greedy after": [1 / 3]}, index)

    monkeypatch.setattr(by_hand, "measure", measure)
    monkeypatch.setattr(by_hand, "loop_of", lambda path: None)
    monkeypatch.setattr(by_hand, "offline", lambda: None)
    for seeds in (["0", "1"], ["2"]):
        assert by_hand.main(["--output", str(tmp_path), "--seeds", *seeds]) == 0
    written = {name: (tmp_path / name).read_text() for name in (by_hand.CURVES, by_hand.SCORES)}
    assert list(pd.read_csv(tmp_path / by_hand.SCORES)["seed"]) == [0, 1, 2]
    assert pd.read_csv(tmp_path / by_hand.SCORES)["greedy after"].tolist() == [0.3333] * 3
    assert by_hand.main(["--output", str(tmp_path), "--seeds", "3", "1"]) == 1
    assert "holds seed 1 already" in capsys.readouterr().err
    assert written == {name: (tmp_path / name).read_text() for name in written}


def test_the_recorded_runs_are_those_of_the_notebook_s_settings(root):
    folder = root / "data/measurements"
    curves, scores = (pd.read_csv(folder / name) for name in (by_hand.CURVES, by_hand.SCORES))
    for frame, rows in ((curves, PROFILES["tiny"].max_steps), (scores, 1)):
        counts = frame.groupby(["method", "seed"]).size()
        assert set(counts.index) == {(method, seed) for method in by_hand.METHODS for seed in (0, 1, 2)}
        assert (counts == rows).all()
