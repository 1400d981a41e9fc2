"""Notebook 06: its patients are those that its exercise asks for, and its table of rules is the tested one."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from test_diagnose import FAULTS, INVISIBLE
from try_exercises import source_of

from helpers.checks import notebook_06
from helpers.diagnose import RULES
from tools.record import clinic, verifier_quality, what_matters

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "notebooks" / "06_reading_a_run.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]


def cell(name: str) -> str:
    (source,) = (source_of(cell) for cell in CELLS if cell["id"] == name)
    return source


def test_random_flips_halve_the_advantages():
    names: dict[str, Any] = {}
    exec(cell("flips-1"), names)
    true, flipped = names["advantages"](names["right"]), names["advantages"](names["flipped"]).mean(0)
    assert torch.allclose(flipped, (1 - 0.25 - 0.25) * true, atol=0.01)


def test_the_exercise_asks_for_these_patients(monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    names: dict[str, Any] = {"pd": pd, "MEASURED": "../data/measurements/"}
    exec(cell("clinic-2"), names)
    patients = names["PATIENTS"]
    assert {letter: patients[letter] for letter in "CO"} == notebook_06.FAULTS
    assert set(patients.values()) == set(clinic.PATIENTS) - {"too few prompts"}
    shown = {
        letter: patients[letter] for letter in re.findall(r'^patient\("(.)"\)$', "\n".join(map(source_of, CELLS)), re.M)
    }
    assert shown == {
        "L": "healthy",
        "K": "every completion cut off",
        "D": "reward by exit code",
        "J": "None counted as 0",
        "C": "unlearns to end",
    }


def test_the_rules_that_the_figure_expects_are_the_tested_ones():
    tree = ast.parse(cell("clinic-17"))
    [expected] = [ast.literal_eval(part.value) for part in tree.body if isinstance(part, ast.Assign)]
    assert {run: rule for run, rule in expected.items() if run in FAULTS} == FAULTS
    assert set(expected) - set(FAULTS) <= {"random reward"} and not set(expected) & INVISIBLE
    assert set(expected.values()) <= {rule.name for rule in RULES}


@pytest.mark.parametrize(
    ("experiment", "file"),
    [
        (clinic, "clinic_scores.csv"),
        (what_matters, "what_matters_scores.csv"),
        (verifier_quality, "verifier_quality_scores.csv"),
    ],
)
def test_three_seeds_of_every_run_are_recorded(experiment, file):
    recorded = pd.read_csv(ROOT / "data/measurements" / file)
    runs = experiment.SETTINGS.get("runs", experiment.SETTINGS.get("changes"))
    assert set(recorded["run"]) == {"before", *runs}
    assert set(recorded.groupby("run")["seed"].nunique()) == {3}
