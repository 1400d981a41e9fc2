"""Run each notebook alone, and each of its cells twice: python -m tools.twice [04]

A reader may open any notebook first, and may run a cell again. Each notebook runs in a copy of the course that holds no
other notebook and no earlier results.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.runtime import output_folder
from tools.hygiene import tags_of
from tools.notebooks import NotebookFailed, execute, notebook_paths, run_for_names

FOLDERS = ("data", "helpers")


def doubled(cells: Sequence[Any]) -> list[Any]:
    """Return the cells with each code cell followed by itself."""
    made: list[Any] = []
    for cell in cells:
        made.append(cell)
        if cell.cell_type == "code" and "skip-execution" not in tags_of(cell):
            again = cell.copy()
            again.id = f"{cell.id[:58]}-again"
            made.append(again)
    return made


def run(root: Path, names: Sequence[str] = ()) -> int:
    """Run the notebooks, print a line for each, and return the exit status: 1 if one of them failed."""
    import nbformat

    failed = 0
    for path in notebook_paths(root, names):
        start = time.perf_counter()
        course = output_folder(root) / "twice" / path.stem
        shutil.rmtree(course, ignore_errors=True)
        for name in FOLDERS:
            shutil.copytree(root / name, course / name, ignore=shutil.ignore_patterns("__pycache__"))
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = doubled(notebook.cells)
        alone = course / "notebooks" / path.name
        alone.parent.mkdir()
        nbformat.write(notebook, alone)
        said = "each cell ran twice"
        try:
            execute(alone, course / "build")
        except NotebookFailed as error:
            said, failed = f"failed: {error}", failed + 1
        print(f"{path.stem:<32}{time.perf_counter() - start:6.1f} s  {said}", flush=True)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_for_names("tools.twice", __doc__, run, arguments, root)


if __name__ == "__main__":
    sys.exit(main())
