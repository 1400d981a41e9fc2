"""The notebooks themselves: their anatomy. What the exercises check is tested in test_exercises.py.

What a rule finds is also tried on small examples that break it.
"""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from try_exercises import exercises, names_in, parts_of, solution_of, source_of, tagged, wrong_answers_of

from tools import hygiene, opening

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXERCISE_TITLE = re.compile(r"^#+ Exercise .*\((easy|medium|hard), \d+ minutes?\)", re.MULTILINE)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_of(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [cell for cell in cells if cell["cell_type"] == "code" and source_of(cell).strip()]


def leans_on_exercises(cells: list[dict[str, Any]]) -> list[str]:
    """Names that a cell takes from an exercise above it: "cell id: name", where the reader's answer would matter."""
    found, answers = [], set()
    for cell in code_of(cells):
        made, taken = names_in(source_of(cell))
        found += [f"{cell['id']}: {name}" for name in sorted(taken & answers - made)]
        answers = answers | made if tagged(cell, "exercise") else answers - made
    return found


@each_notebook
def test_what_is_committed_is_in_order(path):
    """Fresh, executed, free of errors, paths and tokens, with alt text, a link to Colab and the bootstrap cell."""
    assert list(hygiene.faults(path, ROOT)) == []


def test_texts_link_to_what_is_there():
    texts = [
        *ROOT.glob("*.md"),
        *(path for folder in ("data", "docs", "notebooks") for path in (ROOT / folder).rglob("*.md")),
    ]
    broken = {str(text): hygiene.broken_links(text.read_text(encoding="utf-8"), text) for text in texts}
    assert not any(broken.values()), broken


def test_the_readme_lists_each_notebook_with_its_link_to_colab():
    rows = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for path in NOTEBOOKS:
        [row] = [row for row in rows if row.startswith("|") and f"](notebooks/{path.name})" in row]
        assert opening.colab_address(path.name) in row


@each_notebook
def test_a_notebook_is_short(path):
    text = "\n".join(source_of(cell) for cell in cells_of(path) if cell["cell_type"] == "markdown")
    words = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).split()
    assert len(cells_of(path)) <= 100 and len(words) <= (4200 if path.stem.startswith("02") else 4000)


@each_notebook
def test_cells_are_small_and_narrow(path):
    assert faults_of_size(cells_of(path)) == []


def faults_of_size(cells: list[dict[str, Any]]) -> list[str]:
    """What makes a notebook's code hard to read: cells that are long, or too short to hold a step; wide lines."""
    sizes = sorted(len(source_of(cell).splitlines()) for cell in code_of(cells))
    median, large = statistics.median(sizes), sizes[int(0.9 * (len(sizes) - 1))]
    found = [f"median of {median} lines"] * (not 3 <= median <= 12) + [f"90th percentile of {large} lines"] * (
        large > 25
    )
    sources = [(cell["id"], source_of(cell)) for cell in code_of(cells)]
    sources += [(cell["id"], solution_of(cell)) for cell in cells if tagged(cell, "solution")]
    return found + [f"{name}: wide" for name, source in sources for line in source.splitlines() if len(line) > 79]


@each_notebook
def test_exercises_have_all_their_parts(path):
    assert missing_parts(cells_of(path)) == []


def missing_parts(cells: list[dict[str, Any]]) -> list[str]:
    """What an exercise lacks beside its cell: "id: what"."""
    found = []
    for index, exercise, solution in exercises(cells):
        text, above = source_of(solution), cells[max(0, index - 2) : index]
        parts = {
            "a heading above like '### Exercise 1: title (easy, 5 minutes)'": any(
                EXERCISE_TITLE.search(source_of(cell)) for cell in above
            ),
            "the solution in the next cell": solution is cells[index + 1],
            "a folded solution": text.lstrip().startswith("<details") and "</details>" in text,
            # Without it some sites show the code as plain text.
            "a blank line after </summary>": "</summary>\n\n" in text,
            "an import, a stub and one line that checks it": parts_of(exercise) is not None,
            "a wrong_answer in the solution's metadata": wrong_answers_of(solution),
        }
        found += [f"{exercise['id']}: {part}" for part, is_there in parts.items() if not is_there]
    return found


@each_notebook
def test_no_cell_leans_on_an_exercise(path):
    assert leans_on_exercises(cells_of(path)) == []


# --- the rules, on examples that break them ---


def code(source: str, name: str = "cell", *tags: str) -> dict[str, Any]:
    return {"cell_type": "code", "id": name, "source": source, "metadata": {"tags": list(tags)}}


def solution(source: str, *wrong: str) -> dict[str, Any]:
    text = f"<details><summary>Solution</summary>\n\n```python\n{source}\n```\n\n</details>"
    metadata = {"tags": ["solution"], "wrong_answer": list(wrong)}
    return {"cell_type": "markdown", "id": "solution", "source": text, "metadata": metadata}


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([3] * 11, []),
        ([8] * 9 + [25] + [200], []),
        ([2] * 11, ["median of 2 lines"]),
        ([13] * 11, ["median of 13 lines"]),
        ([3] * 8 + [26] * 3, ["90th percentile of 26 lines"]),
    ],
)
def test_cells_that_are_too_large_or_too_small_are_found(sizes, found):
    assert faults_of_size([code("x\n" * size) for size in sizes]) == found


def test_wide_lines_are_found_in_code_and_in_solutions():
    cells = [code(f"x\ny\n{'z' * 79}", "narrow"), code(f"x\n\n{'z' * 80}", "wide"), solution("z" * 80)]
    assert faults_of_size(cells) == ["wide: wide", "solution: wide"]


STUB = 'from helpers.exercises import ___, check\n\n\ndef half(x):\n    return ___\n\n\ncheck("01.1", half)'


def exercise() -> list[dict[str, Any]]:
    heading = {"cell_type": "markdown", "source": "### Exercise 1: half (easy, 5 minutes)", "metadata": {}}
    return [heading, code(STUB, "stub", "exercise"), solution("half = None", "half = 2")]


def test_a_whole_exercise_lacks_nothing():
    assert missing_parts(exercise()) == []


@pytest.mark.parametrize(
    ("number", "change", "part"),
    [
        (0, {"source": "### Exercise 1: half (5 minutes)"}, "a heading above"),
        (1, {"source": 'from helpers.exercises import ___, check\n\ncheck("01.1", half)'}, "an import, a stub"),
        (1, {"source": STUB.partition("\n\n\n")[2]}, "an import, a stub"),
        (1, {"source": f"{STUB}\nprint(half)"}, "an import, a stub"),
        (1, {"source": STUB.replace("half)", "half,\n)")}, "an import, a stub"),
        (1, {"source": STUB.replace("01.1", "Exercise 1")}, "an import, a stub"),
        (2, {"source": "```python\nhalf = None\n```\n</summary>\n\n"}, "a folded solution"),
        (2, {"source": "<details></summary>\n```python\nhalf\n```\n</details>"}, "a blank line after"),
        (2, {"metadata": {"tags": ["solution"]}}, "a wrong_answer"),
    ],
)
def test_an_exercise_without_one_of_its_parts_is_found(number, change, part):
    cells = exercise()
    cells[number] |= change
    [found] = missing_parts(cells)
    assert found.startswith(f"stub: {part}")


def test_a_solution_elsewhere_is_found():
    cells = exercise()
    assert missing_parts([*cells[:2], code("x"), cells[2]]) == ["stub: the solution in the next cell"]


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
    cells = [code('answer = ___\n\ncheck("01.1", answer)', "stub", "exercise"), code(later, "later")]
    assert leans_on_exercises(cells) == (["later: answer"] if leans else [])


def test_a_name_made_again_after_the_exercise_is_free():
    stub = code("def half(x):\n    ...", "stub", "exercise")
    assert leans_on_exercises([stub, code("from helpers.a import half"), code("half(2)")]) == []
    assert leans_on_exercises([code("from helpers.a import half"), stub, code("half(2)")]) == ["cell: half"]
