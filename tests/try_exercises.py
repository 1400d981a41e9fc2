"""Answer every exercise of a notebook in every way that is known, and print what check() says, a JSON line each.

    python tests/try_exercises.py NOTEBOOK

Runs only what an exercise may rest on: the first code cell, the cells tagged `exercise-setup` above it, and its own
cell with the stub exchanged for the solution or a wrong answer. A process of its own, because the first code cell
changes the working folder and sys.path.
"""

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

CHECK = re.compile(r"^check\(", re.MULTILINE)
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def source_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def tagged(cell: dict[str, Any], tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


def stub_and_check(cell: dict[str, Any]) -> tuple[str, str]:
    """An exercise cell, split before its first line that begins with check(."""
    source = source_of(cell)
    found = CHECK.search(source)
    if not found:
        raise ValueError(f"{cell['id']}: an exercise cell ends with check(...) at the left margin")
    return source[: found.start()], source[found.start() :]


def solution_of(cell: dict[str, Any]) -> str:
    """The one fenced block of a solution cell."""
    blocks = FENCE.findall(source_of(cell))
    if len(blocks) != 1:
        raise ValueError(f"{cell['id']}: a solution holds one ```python block, not {len(blocks)}")
    return blocks[0]


def wrong_answers_of(cell: dict[str, Any]) -> list[str]:
    """The known-wrong answers of a solution cell's metadata: a string or a list of them."""
    wrong = cell["metadata"].get("wrong_answer", [])
    return [wrong] if isinstance(wrong, str) else list(wrong)


def exercises(cells: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any], dict[str, Any]]]:
    """(index, exercise cell, solution cell) for each exercise; the n-th solution belongs to the n-th exercise."""
    stubs = [(index, cell) for index, cell in enumerate(cells) if tagged(cell, "exercise")]
    solutions = [cell for cell in cells if tagged(cell, "solution")]
    return [(index, stub, solution) for (index, stub), solution in zip(stubs, solutions, strict=True)]


def run(source: str, names: dict[str, Any]) -> str:
    """Run a piece of code in a copy of the names; returns what it printed, or the error that came out of it."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "<exercise>", "exec"), dict(names))
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return printed.getvalue().strip()


def main(path: str) -> None:
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    first = next(index for index, cell in enumerate(cells) if cell["cell_type"] == "code")
    names: dict[str, Any] = {"__name__": "__main__"}
    done = -1
    for index, exercise, solution in exercises(cells):
        for position in range(done + 1, index):
            if position == first or tagged(cells[position], "exercise-setup"):
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(source_of(cells[position]), cells[position]["id"], "exec"), names)
        done = index
        stub, checks = stub_and_check(exercise)
        answers = [("stub", stub), ("solution", solution_of(solution))]
        answers += [(f"wrong answer {n}", wrong) for n, wrong in enumerate(wrong_answers_of(solution), 1)]
        for case, answer in answers:
            said = run(f"{answer}\n{checks}", names)
            print(json.dumps({"exercise": exercise["id"], "case": case, "said": said}))


if __name__ == "__main__":
    main(sys.argv[1])
