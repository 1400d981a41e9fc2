"""The hash that ties a notebook's outputs to their inputs: what changes it, and what does not."""

import json
import shutil

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

from tools import hygiene, imports, notebooks


@pytest.fixture
def course(tmp_path, root):
    """A course with no helpers and no data."""
    for folder in ("helpers", "data"):
        (tmp_path / folder).mkdir()
    shutil.copy(root / "requirements.txt", tmp_path)
    return tmp_path


def test_the_hash_follows_what_outputs_depend_on(course):
    def hashed(code: str = "from helpers import a", text: str = "text") -> str:
        return hygiene.inputs_hash([new_markdown_cell(text), new_code_cell(code)], course)

    helpers = course / "helpers"
    (helpers / "a.py").write_text("from .package.inner import x\n")
    (helpers / "b.py").write_text("")
    (helpers / "package").mkdir()
    for name in ("__init__", "inner", "started_as_a_process"):
        (helpers / "package" / f"{name}.py").write_text("")
    first = hashed()
    assert hashed(text="other text") == first
    assert hashed("from helpers import a, b") != first
    (helpers / "b.py").write_text("changed = 1")
    (course / "data" / "README.md").write_text("words")
    (course / "data" / ".hidden").write_text("nothing")
    (helpers / "a.py").write_text('"""About a."""\n\n# More of the same.\nfrom .package.inner import (\n    x,\n)\n')
    assert hashed() == first == hashed("# a comment\nfrom helpers import  a")
    for path in (helpers / "a.py", helpers / "package" / "started_as_a_process.py", course / "data" / "new.jsonl"):
        before = hashed()
        path.write_text("from helpers.package import inner")
        assert hashed() != before, path
    before = hashed()
    (course / "requirements.txt").write_text("torch==1.0")
    assert hashed() != before


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("def f():\n    'Old.'\n    return 1", "def f():\n    'New.'\n\n    return (1)  # why", True),
        ("class A:\n    x = 1\n    'Old.'", "class A:\n    x = 1", True),
        ("x = 1", "x = 2", False),
        ("x = 'old'", "x = 'new'", False),
        ("f(x)", "f(x=x)", False),
        ("'first'\n'shown'", "'shown'", True),
        ("'shown'", "'changed'", False),  # a notebook shows the value of the last line
        ("%matplotlib inline\nx", "%matplotlib agg\nx", False),
        ("%%bash\nls # a", "%%bash\nls # b", False),
    ],
)
def test_code_is_alike_if_it_runs_alike(one, other, alike):
    assert (hygiene.code_tree(one, is_cell=True) == hygiene.code_tree(other, is_cell=True)) == alike


def test_in_a_module_a_last_string_is_documentation():
    assert hygiene.code_tree("x = 1\n'Old.'") == hygiene.code_tree("x = 1\n'New.'")


def test_rewording_costs_no_outputs_and_a_constant_those_of_its_notebooks(tmp_path, root):
    for folder in ("helpers", "notebooks", "data"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "requirements.txt", tmp_path)

    def hashes():
        cells = {path.name: json.loads(path.read_text())["cells"] for path in notebooks.notebook_paths(tmp_path)}
        return {name: hygiene.inputs_hash(cells[name], tmp_path) for name in cells}

    before = hashes()
    assert len(before) >= 4
    for path in (tmp_path / "helpers").rglob("*.py"):
        path.write_text("# A comment.\n" + path.read_text().replace('"""', '"""Reworded: ', 1))
    assert hashes() == before
    for module, numbers in {"runtime": None, "preferences": ["01"]}.items():
        before = hashes()
        with (tmp_path / f"helpers/{module}.py").open("a") as file:
            file.write("\nNEW = 1\n")
        stale = [name[:2] for name, now in hashes().items() if now != before[name]]
        assert stale == (numbers or [name[:2] for name in before]), module


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import helpers.rewards as r\nimport math", {"rewards"}),
        ("from helpers.verifier.pool import grade", {"verifier"}),
        ("from helpers import problems, rewards", {"problems", "rewards"}),
        ("def f():\n    from ..policy import sample", {"policy"}),
        ("%matplotlib inline\n!python -m helpers.train --profile tiny", {"train"}),
        ("%%bash\nls 'unclosed", set()),
        ("from os import path", set()),
    ],
)
def test_imports_of_helpers_are_found(code, names):
    assert imports.imported_helpers(code) == names
