"""The Makefile's setup, with stand-ins for Python and pip, so that nothing is installed; and CI, which calls it."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.runtime import PYTHON_RANGE

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# Answers the questions that the Makefile asks of a Python. It "makes" an environment by copying itself, and logs pip.
STAND_IN = """#!/bin/sh
case "$*" in
*"sys.exit(not"*) exit {unsupported};;
*"import venv"*) exit {cannot_make};;
"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
"-m pip"*) echo "$@" >> pip.log; test ! -e pip-fails;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path, root: Path) -> Path:
    """The files that setup reads, in a folder whose name contains a space."""
    clone = tmp_path / "a clone"
    clone.mkdir()
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(root / name, clone)
    return clone


def make(
    clone: Path, goal: str, *options: str, unsupported: int = 0, cannot_make: int = 0
) -> subprocess.CompletedProcess[str]:
    """Call make with a stand-in whose path also contains a space."""
    python = clone / "a python"
    python.write_text(STAND_IN.format(unsupported=unsupported, cannot_make=cannot_make))
    python.chmod(0o755)
    command = ["make", goal, f"PYTHON={python}", *options]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)


def installations(clone: Path) -> int:
    return len((clone / "pip.log").read_text().splitlines())


def test_setup_installs_once_and_again_if_the_requirements_change(clone):
    first = make(clone, "setup")
    assert first.returncode == 0, first.stderr
    assert "Making .venv with " in first.stdout and "minutes" in first.stdout
    assert (clone / "pip.log").read_text().endswith("-r requirements.txt\n")
    make(clone, "setup")
    assert installations(clone) == 1
    os.utime(clone / "requirements.txt", (2**32, 2**32))
    assert "Making .venv" not in make(clone, "setup").stdout and installations(clone) == 2


def test_an_installation_that_fails_is_continued_by_the_next_call(clone):
    (clone / "pip-fails").touch()
    failed = make(clone, "run")
    assert failed.returncode != 0 and "Type the same command again to continue." in failed.stderr
    (clone / "pip-fails").unlink()
    again = make(clone, "setup")
    assert again.returncode == 0 and "Making .venv" not in again.stdout and installations(clone) == 2


def test_setup_from_a_wheelhouse_uses_no_network(clone):
    missing = make(clone, "setup", "WHEELS=the wheels")
    assert missing.returncode != 0 and "There is no folder the wheels to install from." in missing.stderr
    (clone / "the wheels").mkdir()
    assert make(clone, "setup", "WHEELS=the wheels").returncode == 0
    assert "--no-index --find-links the wheels -r requirements.txt" in (clone / "pip.log").read_text()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("unsupported", "This course needs Python 3.11, 3.12 or 3.13, and .* is not .* PYTHON=python3.12"),
        ("cannot_make", "cannot make environments: .* sudo apt install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_gets_a_sentence(fault, sentence, clone):
    refused = make(clone, "lab", **{fault: 1})
    assert refused.returncode != 0 and re.search(sentence, refused.stderr)
    assert len(refused.stderr.splitlines()) == 2 and not (clone / ".venv").exists()  # the second line is make's own


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 13), (3, 14)])
def test_the_makefile_supports_the_versions_that_the_course_does(version, root):
    [check] = re.findall(r"^SUPPORTED = import sys; sys.exit\((.*)\)$", (root / "Makefile").read_text(), re.MULTILINE)
    is_refused = eval(check.replace("sys.version_info[:2]", repr(version)))
    lowest, highest = PYTHON_RANGE
    assert is_refused == (not lowest <= version <= highest)


def test_every_requirement_is_pinned(root):
    lines = [line for line in (root / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines and all(line.count("==") == 1 and "*" not in line for line in lines)


@pytest.fixture
def jobs(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def test_each_push_is_tested_on_the_lowest_and_the_highest_python(jobs):
    assert "if" not in jobs["linux"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == [f"{major}.{minor}" for major, minor in PYTHON_RANGE]
    assert {"make lint", "make test"} <= set(commands(jobs["linux"]).splitlines())


def test_each_week_the_newest_trl_is_tested(jobs):
    assert "schedule" in jobs["newest"]["if"] and "--upgrade trl transformers" in commands(jobs["newest"])


def test_what_ci_runs_is_there(jobs, root):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    run = "\n".join(map(commands, jobs.values()))
    called = {goal for goals in re.findall(r"make ([a-z ]+)", run) for goal in goals.split()}
    assert {"browser", "handout", "links", "test"} <= called <= targets
    assert all((root / file).is_file() for file in re.findall(r"tests/\w+\.py|\S+\.txt", run))
