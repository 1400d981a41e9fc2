"""The notebooks themselves: their anatomy, and that each exercise tells right answers from wrong ones.

What a rule finds is also tried on small examples that break it.
"""

import json
import re
import statistics
import subprocess
import symtable
import sys
from pathlib import Path
from typing import Any

import pytest
from try_exercises import exercises, solution_of, source_of, stub_and_check, tagged, wrong_answers_of

from tools.notebooks import BOOTSTRAP_CELL

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
NEEDS = re.compile(r"^NEEDS = \[.*?\]", re.MULTILINE | re.DOTALL)
EXERCISE_TITLE = re.compile(r"^#+ Exercise .*\((easy|medium|hard), \d+ minutes?\)", re.MULTILINE)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_of(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [cell for cell in cells if cell["cell_type"] == "code" and source_of(cell).strip()]


def names_in(source: str) -> tuple[set[str], set[str]]:
    """(names a cell makes, names it takes from the cells before it or from builtins), as Python scopes them."""
    plain = "\n".join("" if line.startswith(("%", "!")) else line for line in source.splitlines())
    top = symtable.symtable(plain, "cell", "exec")
    made = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    taken = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    inner = list(top.get_children())
    while inner:
        scope = inner.pop()
        inner += scope.get_children()
        taken |= {name.get_name() for name in scope.get_symbols() if name.is_global() and name.is_referenced()}
    return made, taken


def leans_on_exercises(cells: list[dict[str, Any]]) -> list[str]:
    """Names that a cell takes from an exercise above it: "cell id: name", where the reader's answer would matter."""
    found, answers = [], set()
    for cell in code_of(cells):
        made, taken = names_in(source_of(cell))
        found += [f"{cell['id']}: {name}" for name in sorted(taken & answers - made)]
        answers = answers | made if tagged(cell, "exercise") else answers - made
    return found


@each_notebook
def test_begins_with_title_and_bootstrap(path):
    title, bootstrap, *_ = cells_of(path)
    assert title["cell_type"] == "markdown" and source_of(title).startswith("# ")
    assert bootstrap["cell_type"] == "code"
    assert NEEDS.sub("NEEDS = []", source_of(bootstrap)) == BOOTSTRAP_CELL


@each_notebook
def test_cells_are_small(path):
    sizes = sorted(len(source_of(cell).splitlines()) for cell in code_of(cells_of(path)))
    assert 3 <= statistics.median(sizes) <= 8, sizes
    assert sizes[int(0.9 * (len(sizes) - 1))] <= 25, sizes


@each_notebook
def test_lines_of_code_fit_a_narrow_window(path):
    cells = cells_of(path)
    sources = [(cell["id"], source_of(cell)) for cell in code_of(cells)]
    sources += [(cell["id"], solution_of(cell)) for cell in cells if tagged(cell, "solution")]
    wide = [f"{name}: {line}" for name, source in sources for line in source.splitlines() if len(line) > 79]
    assert not wide


@each_notebook
def test_exercises_have_all_their_parts(path):
    cells = cells_of(path)
    assert len(exercises(cells)) == sum(tagged(cell, "exercise") for cell in cells)
    for index, exercise, solution in exercises(cells):
        name = exercise["id"]
        assert any(EXERCISE_TITLE.search(source_of(cell)) for cell in cells[max(0, index - 2) : index]), (
            f"{name}: above it stands a heading like '### Exercise 1: title (easy, 5 minutes)'"
        )
        assert solution is cells[index + 1], f"{name}: the solution is the next cell"
        text = source_of(solution)
        assert text.lstrip().startswith("<details") and "</details>" in text, f"{name}: the solution is not folded"
        # Without the blank line some sites show the code as plain text.
        assert "</summary>\n\n" in text, f"{name}: a blank line must follow </summary>"
        assert stub_and_check(exercise)[0].strip(), f"{name}: there is no stub"
        assert wrong_answers_of(solution), f"{name}: the solution's metadata names no wrong_answer"


@each_notebook
def test_no_cell_leans_on_an_exercise(path):
    assert leans_on_exercises(cells_of(path)) == []


@each_notebook
def test_exercises_tell_right_from_wrong(path):
    assert faults_of_exercises(path) == []


def faults_of_exercises(path: Path) -> list[str]:
    """Exercises of a notebook whose check does not say what it should, "id, case: what it said"."""
    if not any(tagged(cell, "exercise") for cell in cells_of(path)):
        return []
    script = Path(__file__).with_name("try_exercises.py")
    done = subprocess.run([sys.executable, script, path], cwd=path.parent, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = []
    for line in done.stdout.splitlines():
        tried = json.loads(line)
        verdict = tried["said"].splitlines()[-1] if tried["said"] else ""
        wanted = {"stub": ": not answered yet.", "solution": ": correct."}.get(tried["case"], ": not yet. ")
        # An error is no targeted hint: a wrong answer must be caught by a test that was written for it.
        if wanted not in verdict or "Your code raised" in verdict:
            found.append(f"{tried['exercise']}, {tried['case']}: {tried['said']}")
    return found


# --- the rules, on examples that break them ---


def code(source: str, name: str = "cell", *tags: str) -> dict[str, Any]:
    return {"cell_type": "code", "id": name, "source": source, "metadata": {"tags": list(tags)}}


def solution(source: str, *wrong: str) -> dict[str, Any]:
    text = f"<details><summary>Solution</summary>\n\n```python\n{source}\n```\n\n</details>"
    metadata = {"tags": ["solution"], "wrong_answer": list(wrong)}
    return {"cell_type": "markdown", "id": "solution", "source": text, "metadata": metadata}


@pytest.mark.parametrize(
    ("later", "leans"),
    [
        ("print(answer)", True),
        ("def f():\n    return [answer for _ in range(3)]", True),
        ("f(lambda: answer)", True),
        ("answer = 3", False),
        ("def f(answer):\n    return answer", False),
        ("other = answers", False),
    ],
)
def test_a_cell_that_leans_on_an_exercise_is_found(later, leans):
    cells = [code("answer = ___\ncheck('Exercise 1', answer)", "stub", "exercise"), code(later, "later")]
    assert leans_on_exercises(cells) == (["later: answer"] if leans else [])


def test_a_name_made_again_after_the_exercise_is_free():
    stub = code("def half(x):\n    ...", "stub", "exercise")
    assert leans_on_exercises([stub, code("from helpers.a import half"), code("half(2)")]) == []
    assert leans_on_exercises([code("from helpers.a import half"), stub, code("half(2)")]) == ["cell: half"]


STUB = "def half(x):\n    return ___\n\n\ncheck('Exercise 1', half, is_half)"
TEST = """
from helpers.exercises import ___, check

def is_half(function):
    assert function(4) == 2, "Divide by two."
"""


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("def half(x):\n    return x / 2", "def half(x):\n    return x", []),
        ("def half(x):\n    return x * 2", "def half(x):\n    return x", ["solution: Exercise 1: not yet."]),
        ("def half(x):\n    return x / 2", "half = lambda x: 2", ["wrong answer 1: Exercise 1: correct."]),
        ("def half(x):\n    return x / 2", "def half(x):\n    return y", ["wrong answer 1: Exercise 1: not yet. Your"]),
        ("def half(x):\n    return x / 2", "def half(x)", ["wrong answer 1: raised SyntaxError"]),
    ],
)
def test_a_check_that_is_too_lax_or_too_strict_is_found(right, wrong, found, tmp_path, root):
    cells = [
        code(f"import sys\nsys.path.insert(0, {str(root)!r})\nprint('Ready.')"),
        code("raise RuntimeError('only what is tagged is run')"),
        code(TEST, "setup", "exercise-setup"),
        code(STUB, "stub", "exercise"),
        solution(right, wrong),
    ]
    path = tmp_path / "01_first.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    faults = faults_of_exercises(path)
    assert len(faults) == len(found)
    assert all(fault.startswith(f"stub, {start}") for fault, start in zip(faults, found, strict=True))


def test_the_bootstrap_cell_is_small_and_narrow():
    lines = BOOTSTRAP_CELL.splitlines()
    assert len(lines) <= 20 and max(map(len, lines)) <= 79


def test_the_bootstrap_cell_finds_the_course(root, tmp_path):
    def start(folder: Path) -> subprocess.CompletedProcess[str]:
        script = f"{BOOTSTRAP_CELL}\nprint(os.getcwd(), roots[0] == Path({str(root)!r}))"
        return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=60)

    for folder in (root, root / "notebooks", root / "helpers"):
        assert start(folder).stdout.splitlines()[1:] == [f"{root / 'notebooks'} True"], folder
    lost = start(tmp_path)
    assert lost.returncode != 0
    assert lost.stderr.splitlines()[-1] == f"FileNotFoundError: The course's files are not above {tmp_path}"
