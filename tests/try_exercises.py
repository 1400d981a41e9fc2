"""Answer every exercise of a notebook in every known way, and print what check() says, as one JSON line for each.

    python tests/try_exercises.py NOTEBOOK

Only what an exercise may rest on is run: the first code cell, the cells above it that are tagged `exercise-setup`, and
its own cell with the stub replaced by the solution or by a wrong answer. This needs a process of its own, because the
first code cell changes the working folder and sys.path.
"""

import contextlib
import functools
import io
import json
import re
import symtable
import sys
from pathlib import Path
from typing import Any

# An exercise cell is an import line, the stub, and one line that checks it.
PARTS = re.compile(
    r"(from helpers\.exercises import [^\n]*\n\n+)(.*\S)\n\n+(check\(\"\d\d\.\d+\", [^\n]*\))", re.DOTALL
)
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def source_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def tagged(cell: dict[str, Any], tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


def parts_of(cell: dict[str, Any]) -> tuple[str, str, str] | None:
    """Split an exercise cell into its import, its stub and its check. Return None if it has another form."""
    found = PARTS.fullmatch(source_of(cell).strip())
    return (found[1], found[2], found[3]) if found else None


def solution_of(cell: dict[str, Any]) -> str:
    """Return the one fenced block of a solution cell."""
    blocks = FENCE.findall(source_of(cell))
    if len(blocks) != 1:
        raise ValueError(f"{cell['id']}: a solution holds one ```python block, not {len(blocks)}")
    return blocks[0]


def wrong_answers_of(cell: dict[str, Any]) -> list[str]:
    """Return the known-wrong answers in a solution cell's metadata: a string or a list of strings."""
    wrong = cell["metadata"].get("wrong_answer", [])
    return [wrong] if isinstance(wrong, str) else list(wrong)


def exercises(cells: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Return (index, exercise cell, solution cell) for each exercise. They belong together by their order."""
    stubs = [(index, cell) for index, cell in enumerate(cells) if tagged(cell, "exercise")]
    solutions = [cell for cell in cells if tagged(cell, "solution")]
    return [(index, stub, solution) for (index, stub), solution in zip(stubs, solutions, strict=True)]


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


def run(source: str, names: dict[str, Any]) -> str:
    """Run a piece of code in a copy of the names. Return what it printed, or the error that it raised."""
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
        if "twenty_steps" in names:  # the same arguments give the same run, so train once for each
            names["twenty_steps"] = functools.cache(names["twenty_steps"])
        head, stub, check = parts_of(exercise)
        answers = [("stub", stub), ("solution", solution_of(solution))]
        answers += [(f"wrong answer {n}", wrong) for n, wrong in enumerate(wrong_answers_of(solution), 1)]
        for case, answer in answers:
            said = run(f"{head}{answer}\n{check}", names)
            print(json.dumps({"exercise": exercise["id"], "case": case, "said": said}))


if __name__ == "__main__":
    main(sys.argv[1])
