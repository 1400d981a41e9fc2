"""Make what a teacher hands out or shows, from the committed notebooks: python -m tools.teaching COMMAND.

student    the course without solutions and outputs: build/student/grpo-course, and the same as a ZIP file
solutions  the notebooks with every exercise answered and its verdict: build/solutions

Nothing outside build/ is changed.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.runtime import CourseError, output_folder, project_root
from tools.hygiene import tags_of
from tools.notebooks import notebook_paths, run_nbmake
from tools.opening import COLAB_LINK

COURSE = "grpo-course"
# What a reader needs. The tests are left out, because they contain the answers to the exercises.
FOLDERS = (".devcontainer", "data", "docs", "helpers", "notebooks", "tools")
FILES = ("Makefile", "requirements.txt", "LICENSE", "CITATION.cff", ".gitignore")
TEXTS = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
# Sentences that the version without solutions, tests and the teacher's page does not say.
LEFT_UNSAID = (
    ("README.md", " Solutions are folded below each."),
    ("README.md", " To teach the course, read [TEACHING.md](TEACHING.md)."),
    ("README.md", " `make test` runs all tests and every notebook."),
    ("CONTRIBUTING.md", "[TEACHING.md](TEACHING.md) tells teachers how to use these commands. "),
    ("helpers/exercises.py", " The solution is folded below the exercise."),
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*.unfinished")

# An exercise is an import line, a stub, and one line that checks it. Its solution has one block of code.
EXERCISE = re.compile(
    r"(from helpers\.exercises import [^\n]*\n+)(.*?)(\n+check\(\"(\d\d\.\d+)\"[^\n]*\)\s*)", re.DOTALL
)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def student(root: Path, names: Sequence[str] = ()) -> int:
    """Write the course without solutions, outputs and tests to build/student/, and a ZIP file of it. Returns 0."""
    import nbformat

    folder = output_folder(root) / "student"
    shutil.rmtree(folder, ignore_errors=True)
    course = folder / COURSE
    course.mkdir(parents=True)
    for name in FOLDERS:
        if (root / name).is_dir():
            shutil.copytree(root / name, course / name, ignore=LEFT_OUT)
    for name in FILES + TEXTS:
        if (root / name).is_file():
            shutil.copy(root / name, course)
    for name, sentence in LEFT_UNSAID:
        text = (course / name).read_text(encoding="utf-8")
        (course / name).write_text(text.replace(sentence, ""), encoding="utf-8")
    chosen = {path.name for path in notebook_paths(root, names)}
    solutions = 0
    for path in notebook_paths(course):
        if path.name not in chosen:
            path.unlink()
            continue
        notebook = nbformat.read(path, as_version=4)
        solutions += sum("solution" in tags_of(cell) for cell in notebook.cells)
        nbformat.write(without_answers(notebook), path)
    archive = shutil.make_archive(str(folder / COURSE), "zip", folder, COURSE)
    print(f"{len(chosen)} notebooks without their {solutions} solutions and without outputs: {course}")
    print(f"The same in one file: {archive} ({Path(archive).stat().st_size / 1e6:.0f} MB)")
    return 0


def without_answers(notebook: Any) -> Any:
    """Return the notebook without its solutions and outputs, and without the link to Colab, which shows both."""
    notebook.cells = [cell for cell in notebook.cells if "solution" not in tags_of(cell)]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells[0].source = re.sub(r"\n{3,}", "\n\n", COLAB_LINK.sub("", notebook.cells[0].source))
    notebook.metadata.pop("course", None)
    return notebook


def solutions(root: Path, names: Sequence[str] = ()) -> int:
    """Write the notebooks with every exercise answered to build/solutions/, and run the answers. Returns 0.

    All other outputs are the committed ones. Raises CourseError if an exercise rejects its solution.
    """
    import nbformat

    folder = output_folder(root) / "solutions"
    shutil.rmtree(folder, ignore_errors=True)
    for path in notebook_paths(root, names):
        notebook = nbformat.read(path, as_version=4)
        answered = with_answers(notebook.cells)
        if answered:
            # An exercise may rest on the first code cell and on the cells that are tagged for it, and on nothing else.
            first = next(cell for cell in notebook.cells if cell.cell_type == "code")
            needed = [c for c in notebook.cells if c is first or {"exercise-setup", "exercise"} & set(tags_of(c))]
            _show_verdicts(folder / path.name, needed, answered, root)
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / path.name)
        print(f"{path.stem:<32}{len(answered)} exercises answered, all correct", flush=True)
    print(f"Notebooks with the answers: {folder}")
    return 0


def with_answers(cells: Sequence[Any]) -> dict[str, Any]:
    """Write each solution into its exercise, and unfold its explanation. Returns the exercises by name ("03.2")."""
    answered = {}
    stubs = [cell for cell in cells if "exercise" in tags_of(cell)]
    texts = [cell for cell in cells if "solution" in tags_of(cell)]
    for stub, text in zip(stubs, texts, strict=True):
        parts, block = EXERCISE.fullmatch(stub.source), BLOCK.search(text.source)
        if not parts or not block:
            raise CourseError(f"Cell {stub.id} is not an exercise with a solution: see CONTRIBUTING.md.")
        stub.source = parts[1] + block[1].strip("\n") + parts[3]
        explanation = BLOCK.sub("", text.source, count=1)
        text.source = re.sub(r"\n{3,}", "\n\n", explanation.replace("<details>", "<details open>"))
        answered[parts[4]] = stub
    return answered


def _show_verdicts(copy: Path, needed: Sequence[Any], answered: dict[str, Any], root: Path) -> None:
    """Execute the exercises of a notebook, and give each its output. Raises CourseError if one is not correct."""
    import nbformat
    from nbformat.v4 import new_notebook

    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=needed), copy)
    run_nbmake(copy, root)
    outputs = {cell.id: cell.get("outputs") for cell in nbformat.read(copy, as_version=4).cells}
    copy.unlink()
    for name, cell in answered.items():
        cell.outputs = outputs[cell.id]
        if "✔" not in str(cell.outputs):
            raise CourseError(f"Exercise {name} does not accept its own solution. Run: pytest tests/test_exercises.py")


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the command line; returns the exit status."""
    commands = {"student": student, "solutions": solutions}
    parser = argparse.ArgumentParser(prog="python -m tools.teaching", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=commands)
    parser.add_argument("names", nargs="*", help="start of the notebooks' file names, as in 04 (default: all)")
    chosen = parser.parse_args(arguments)
    try:
        return commands[chosen.command](root or project_root(), chosen.names)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
