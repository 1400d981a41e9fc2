"""python -m tools.record: it adds rows, continues where it stopped, and never replaces a row."""

import importlib
import json
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from helpers.runtime import CourseError
from tools.record import EXPERIMENTS, __main__, table


def experiment(*files, failing=None, columns=("seed", "score")):
    """An experiment of two rows a seed, which writes down the seeds that it measured."""
    measured = []

    def measure(seed):
        measured.append(seed)
        if seed == failing:
            raise KeyboardInterrupt
        rows = pd.DataFrame([[seed, 1 / 3], [seed, 1]], columns=columns)
        return dict.fromkeys(files, rows)

    return SimpleNamespace(FILES=files, SETTINGS={"n": (1, 2)}, measure=measure, measured=measured)


def test_seeds_are_added_and_none_is_measured_again(tmp_path, capsys):
    table.record(experiment("a.csv"), [0, 2], tmp_path)
    before = (tmp_path / "a.csv").read_text()
    assert before == "seed,score\n0,0.3333\n0,1.0\n2,0.3333\n2,1.0\n"
    again = experiment("a.csv")
    table.record(again, [0, 1, 2], tmp_path)
    assert again.measured == [1]
    assert (tmp_path / "a.csv").read_text() == before + "1,0.3333\n1,1.0\n"
    assert "Seed 0 is in " in capsys.readouterr().out
    how = json.loads((tmp_path / "a.json").read_text())
    assert [entry["seed"] for entry in how] == [0, 2, 1]
    assert how[0]["settings"] == {"n": [1, 2]} and {"python", "torch", "trl"} <= set(how[0]["versions"])


def test_an_interrupted_recording_keeps_what_it_has_and_continues(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        table.record(experiment("a.csv", "b.csv", failing=1), [0, 1], tmp_path)
    assert table.seeds_in(tmp_path / "a.csv") == table.seeds_in(tmp_path / "b.csv") == {0}
    continued = experiment("a.csv", "b.csv")
    table.record(continued, [0, 1], tmp_path)
    assert continued.measured == [1] and table.seeds_in(tmp_path / "b.csv") == {0, 1}


def test_a_seed_that_one_file_lacks_is_added_to_that_file_alone(tmp_path):
    (tmp_path / "a.csv").write_text("seed,score\n0,0.5\n")
    table.record(experiment("a.csv", "b.csv"), [0], tmp_path)
    assert (tmp_path / "a.csv").read_text() == "seed,score\n0,0.5\n"
    assert (tmp_path / "b.csv").read_text() == "seed,score\n0,0.3333\n0,1.0\n"


def test_a_file_is_whole_at_every_moment(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("seed,score\n0,0.5\n")

    def fails(*paths):
        raise OSError("no space left on the disk")

    monkeypatch.setattr(table.os, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        table.record(experiment("a.csv"), [1], tmp_path)
    assert (tmp_path / "a.csv").read_text() == "seed,score\n0,0.5\n"


def test_rows_with_other_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("seed,score\n0,0.5\n")
    with pytest.raises(CourseError, match=r"has the columns .'seed', 'score'.*'seed', 'other'"):
        table.record(experiment("a.csv", columns=("seed", "other")), [1], tmp_path)
    assert (tmp_path / "a.csv").read_text() == "seed,score\n0,0.5\n"


def test_the_command_finds_each_experiment_and_the_records_have_its_columns(tmp_path, monkeypatch, root, capsys):
    measured, recorded = root / "data/measurements", {}
    for name in set(EXPERIMENTS) - {"qwen"}:  # which has a command line of its own
        files = importlib.import_module(f"tools.record.{name.replace('-', '_')}").FILES
        if all((measured / file).exists() for file in files):
            recorded[name] = [str(seed) for seed in sorted(set(pd.read_csv(measured / files[0])["seed"]))]
    assert {"by-hand", "cheats"} <= set(recorded)
    for name, seeds in recorded.items():
        assert __main__.main([name, "--seeds", *seeds, "--output", str(measured)]) == 0
    assert capsys.readouterr().out.count("already") == sum(map(len, recorded.values()))
    monkeypatch.setitem(sys.modules, "tools.record.by_hand", experiment("a.csv", failing=4))
    assert __main__.main(["by-hand", "--output", str(tmp_path), "--seeds", "4"]) == 1
    assert "The same command continues" in capsys.readouterr().err
