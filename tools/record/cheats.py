"""Notebook 02: how many answers of each kind does each of its verifiers accept, on all of HumanEval?

The verifiers and the cheats are not copied: the notebook's cells tagged `verifiers` are run. v0 takes a second for each
program, so it gets the first two correct answers and hard exits only. Nothing here is random: one seed is enough.
"""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.runtime import CourseError, project_root
from tools.hygiene import source_of, tags_of

FILES = ("cheats.csv",)
NOTEBOOK = "notebooks/02_verifiable_rewards.ipynb"
TAG = "verifiers"
NEEDED = ("attempts", "verifiers", "forked", "run_pytest", "grade_all")
OF_V0 = {"correct answers": 2, "hard exit": 2}
OF_FORKED = ("correct answers", "reads the tests")
SETTINGS = {"problems": "humaneval", "answers for v0": OF_V0, "kinds for the forked judge": OF_FORKED}


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Return one row for each verifier and kind of answer: how many were tried, and how many accepted."""
    return {FILES[0]: pd.DataFrame(table_of(cells_of(project_root() / NOTEBOOK))).assign(seed=seed)}


def cells_of(path: Path) -> dict[str, Any]:
    """Run the notebook's cells that are tagged `verifiers`, and return the names that they define.

    Raises CourseError if one of NEEDED is missing.
    """
    names: dict[str, Any] = {"__name__": "verifiers"}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if TAG in tags_of(cell):
                exec(compile(source_of(cell), cell.get("id", TAG), "exec"), names)
    if missing := [name for name in NEEDED if name not in names]:
        raise CourseError(f"The cells of {path.name} that are tagged {TAG} do not define {', '.join(missing)}.")
    return names


def table_of(names: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows, with the verifiers and the kinds of answer that the cells define."""
    attempts, grade_all = names["attempts"], names["grade_all"]

    def v0(problem: Any, completion: str) -> bool:
        return names["run_pytest"](problem, completion).returncode == 0

    given = {kind: pairs[: OF_V0.get(kind, 0)] for kind, pairs in attempts.items()}
    rows = _rows("v0", v0, given, grade_all)
    for name, verifier in names["verifiers"].items():
        rows += _rows(name, verifier, attempts, grade_all)
    return rows + _rows("forked", names["forked"], {kind: attempts[kind] for kind in OF_FORKED}, grade_all)


def _rows(name: str, verifier: Any, given: dict[str, Any], grade_all: Any) -> list[dict[str, Any]]:
    found = {kind: grade_all(verifier, pairs) for kind, pairs in given.items() if pairs}
    return [
        {"verifier": name, "kind": kind, "programs": len(verdicts), "accepted": sum(verdicts)}
        for kind, verdicts in found.items()
    ]
