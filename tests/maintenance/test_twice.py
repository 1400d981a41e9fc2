"""tools.twice: that it finds a cell that runs only once, and a notebook that needs another one."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import opening, twice


@pytest.fixture
def course(tmp_path: Path, root: Path) -> Path:
    course = tmp_path / "a course"
    for folder in ("helpers", "notebooks", "data", "build"):
        (course / folder).mkdir(parents=True)
    for name in ("__init__.py", "runtime.py"):
        shutil.copy(root / "helpers" / name, course / "helpers")
    (course / "build/earlier.txt").write_text("left by another notebook")
    return course


def write(course: Path, name: str, *sources: str) -> None:
    cells = [new_markdown_cell("# Title"), new_code_cell(opening.BOOTSTRAP_CELL), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells), course / "notebooks" / name)


def test_a_cell_that_runs_only_once_and_one_that_needs_an_earlier_result_are_found(course, capsys):
    write(course, "01_good.ipynb", "count = globals().get('count', 0) + 1", "assert count == 2")
    write(course, "02_once.ipynb", "left = [1]", "left.pop()")
    write(course, "03_needy.ipynb", "open('../build/earlier.txt').read()")
    assert twice.main([], root=course) == 1
    good, *rest = capsys.readouterr().out.splitlines()
    assert good.startswith("01_good ") and good.endswith("each cell ran twice")
    said = "\n".join(rest)
    assert "02_once" in said and "-again) failed: left.pop()" in said
    assert "03_needy" in said and "failed: open('../build/earlier.txt')" in said


def test_skipped_cells_stay_single():
    cells = [new_code_cell("1"), new_code_cell("2", metadata={"tags": ["skip-execution"]}), new_markdown_cell("3")]
    assert [cell.source for cell in twice.doubled(cells)] == ["1", "1", "2", "3"]
