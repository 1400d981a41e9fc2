"""The devcontainer: what it names is there. The weekly workflow builds it and runs `make check` in it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.runtime import PYTHON_RANGE


@pytest.fixture
def container(root: Path) -> dict[str, Any]:
    return json.loads((root / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))


def test_its_python_is_one_that_the_course_supports(container):
    version = re.search(r"python:(\d+)\.(\d+)-", container["image"])
    assert PYTHON_RANGE[0] <= tuple(map(int, version.groups())) <= PYTHON_RANGE[1]


def test_it_sets_up_and_checks_with_the_courses_own_commands(container, root):
    targets = re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE)
    for step in ("updateContentCommand", "postCreateCommand"):
        assert container[step].startswith("make ") and container[step].removeprefix("make ") in targets


def test_it_opens_a_notebook_with_the_environment_that_setup_makes(container, root):
    custom = container["customizations"]
    assert all((root / file).is_file() for file in custom["codespaces"]["openFiles"])
    python = re.search(r"^VENV_PYTHON = (.+)$", (root / "Makefile").read_text(), re.MULTILINE)[1]
    assert custom["vscode"]["settings"]["python.defaultInterpreterPath"].endswith(f"/{python}")
