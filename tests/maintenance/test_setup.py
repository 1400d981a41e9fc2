"""The Makefile: which Python it takes, what it says where none fits, that it repeats nothing; and CI, which calls it.

Stand-ins for Python and pip, so that nothing is installed and no network is needed.
"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.runtime import PYTHON_RANGE

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# Answers as the Makefile's probe expects; "makes" an environment by copying itself, and writes down what pip is asked.
STAND_IN = """#!/bin/sh
case "$1 $2" in
"-c "*) echo "{version}"; exit {status};;
"-m venv") shift 3; mkdir -p "$1/bin"; cp "$0" "$1/bin/python";;
"-m pip") test "$3" = install || exit {status}; echo "$@" >> pip.log; test ! -e pip-fails;;
*) echo "Python {version}";;
esac
"""


@pytest.fixture
def clone(tmp_path: Path, root: Path) -> Path:
    """What setup needs of the project, in a folder whose name holds a space, with no Python on the path."""
    clone = tmp_path / "a clone"
    clone.mkdir()
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(root / name, clone)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("make", "sh", "cat", "cksum", "cp", "echo", "head", "mkdir", "rm", "sed", "test"):
        (tools / name).symlink_to(shutil.which(name))
    return clone


def python(clone: Path, name: str, version: str, status: int = 0) -> Path:
    """A stand-in for a Python of this version, on the path; a status other than 0: one without venv."""
    path = clone.parent / "tools" / name
    path.write_text(STAND_IN.format(version=version, status=status))
    path.chmod(0o755)
    return path


def make(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=clone,
        env={"PATH": str(clone.parent / "tools"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def installations(clone: Path) -> int:
    log = clone / "pip.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_help_is_the_default_and_names_every_command(clone):
    said = make(clone).stdout
    for command in ("setup", "lab", "run", "test", "lint", "outputs", "publish", "clean"):
        assert f"\nmake {command} " in "\n" + said


def test_setup_makes_an_environment_once(clone):
    python(clone, "python3", "3.12.1")
    first = make(clone, "setup")
    assert first.returncode == 0, first.stderr
    assert "Making .venv with python3 (Python 3.12.1)" in first.stdout and "minutes" in first.stdout
    assert (clone / "pip.log").read_text().endswith("-r requirements.txt\n")
    again = make(clone, "setup")
    assert (again.returncode, again.stdout, installations(clone)) == (0, "", 1)


def test_setup_installs_again_when_the_requirements_change(clone):
    python(clone, "python3", "3.12.1")
    make(clone, "setup")
    with (clone / "requirements.txt").open("a") as file:
        file.write("another==1.0\n")
    again = make(clone, "setup")
    assert "Making .venv" not in again.stdout and installations(clone) == 2
    assert make(clone, "setup").stdout == "" and installations(clone) == 2


def test_an_installation_that_fails_is_told_and_taken_up_again(clone):
    python(clone, "python3", "3.12.1")
    (clone / "pip-fails").touch()
    failed = make(clone, "setup")
    assert failed.returncode != 0 and "the same command goes on from here" in failed.stderr
    (clone / "pip-fails").unlink()
    assert make(clone, "setup").returncode == 0
    assert installations(clone) == 2


def test_the_first_python_that_fits_is_taken(clone):
    python(clone, "python3", "3.9.18")
    python(clone, "python3.13", "", status=127)  # a launcher that is there and does not run
    python(clone, "python3.12", "3.12.1", status=1)  # cannot make environments
    python(clone, "python3.11", "3.11.7")
    assert "Making .venv with python3.11 (Python 3.11.7)" in make(clone, "setup").stdout


def test_no_python_that_fits_gets_a_sentence(clone):
    python(clone, "python3", "3.14.0")
    python(clone, "python3.12", "3.12.1", status=1)
    done = make(clone, "lab")
    assert done.returncode != 0
    assert done.stderr.startswith("This course needs Python 3.11, 3.12 or 3.13 ")
    assert "python3 is 3.14.0, python3.12 is 3.12.1 without venv" in done.stderr
    assert len(done.stderr.splitlines()) == 2  # ours and make's own


def test_no_python_at_all_gets_a_sentence(clone):
    assert "found: no Python at all" in make(clone, "setup").stderr


@pytest.mark.parametrize("version", ["3.9.18", "3.10.13", "3.14.0", "2.7.18", "Python 3.9.18", "3.1.1", "31.1.0"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "set up"])
def test_a_python_that_is_named_and_does_not_fit_gets_a_sentence(version, there, clone):
    python(clone, "python3", "3.12.1")
    if there:
        make(clone, "setup")
    named = python(clone, "named", version)
    done = make(clone, "setup", f"PYTHON={named}")
    assert done.returncode != 0
    plain = version.removeprefix("Python ")
    assert f"This course needs Python 3.11, 3.12 or 3.13; PYTHON={named} is {plain}." in done.stderr
    assert (clone / ".venv").exists() == there


def test_a_python_that_is_named_and_does_not_run_gets_a_sentence(clone):
    assert "PYTHON=no-such is no Python that runs." in make(clone, "setup", PYTHON="no-such").stderr


def test_a_python_that_is_named_replaces_the_environment_of_another(clone):
    python(clone, "python3", "3.11.7")
    make(clone, "setup")
    named = python(clone, "named one", "3.13.0")
    assert f"Making .venv with {named} (Python 3.13.0)" in make(clone, "setup", f"PYTHON={named}").stdout
    assert make(clone, "setup", f"PYTHON={named}").stdout == ""
    assert make(clone, "setup").stdout == ""


def test_an_environment_made_by_hand_is_used_but_not_replaced(clone):
    by_hand = python(clone, "python3", "3.12.1")
    (clone / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(by_hand, clone / ".venv" / "bin" / "python")
    other = python(clone, "other", "3.13.0")
    refused = make(clone, "setup", f"PYTHON={other}")
    assert refused.returncode != 0 and "rm -r .venv" in refused.stderr
    used = make(clone, "setup")
    assert used.returncode == 0 and "Making .venv" not in used.stdout and installations(clone) == 1


def test_an_environment_of_an_old_python_is_told(clone):
    old = python(clone, "old", "3.10.13")
    (clone / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(old, clone / ".venv" / "bin" / "python")
    done = make(clone, "setup")
    assert done.returncode != 0 and ".venv is 3.10.13. Remove it and try again: rm -r .venv" in done.stderr


def test_an_environment_whose_python_is_gone_is_made_anew(clone):
    python(clone, "python3", "3.12.1")
    make(clone, "setup")
    (clone / ".venv" / "bin" / "python").unlink()
    assert "Making .venv" in make(clone, "setup").stdout and installations(clone) == 2


def test_the_ci_script_can_be_run_from_anywhere(root):
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_direct_dependencies_are_pinned_exactly(root):
    lines = [line for line in (root / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines and all(line.count("==") == 1 and "*" not in line for line in lines)


# --- what CI runs ---


@pytest.fixture
def workflow(root: Path) -> dict[Any, Any]:
    return yaml.safe_load((root / ".github/workflows/ci.yml").read_text(encoding="utf-8"))


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def test_every_push_is_tested_on_the_lowest_and_the_highest_python(workflow):
    when = workflow[True]  # YAML 1.1 reads the key `on` as a truth value
    assert {"push", "pull_request"} <= set(when) and not when["push"] and not when["pull_request"]
    job = workflow["jobs"]["linux"]
    assert "if" not in job and job["runs-on"].startswith("ubuntu")
    assert job["strategy"]["matrix"]["python"] == [f"{major}.{minor}" for major, minor in PYTHON_RANGE]
    assert {"make lint", "make test"} <= set(commands(job).splitlines())


def test_what_ci_runs_is_there(workflow, root):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for job in workflow["jobs"].values():
        run = commands(job)
        assert subprocess.run(["bash", "-n", "-c", run]).returncode == 0
        assert set(re.findall(r"make (\w+)", run)) <= targets
        assert all((root / file).is_file() for file in re.findall(r"tests/\w+\.py|\S+\.txt", run))
        steps = [step["uses"] for step in job["steps"] if "uses" in step]
        assert [step.split("@")[0] for step in steps] == ["actions/checkout", "actions/setup-python"]


def test_each_week_other_systems_and_the_newest_libraries_are_tried(workflow):
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", workflow[True]["schedule"][0]["cron"])
    weekly = {name: job for name, job in workflow["jobs"].items() if "schedule" in job.get("if", "")}
    assert {job["runs-on"].split("-")[0] for job in weekly.values()} == {"ubuntu", "macos", "windows"}
    assert "--upgrade trl transformers" in commands(weekly["newest"])


def test_every_place_names_the_same_pythons(root):
    (major, lowest), (_, highest) = PYTHON_RANGE
    versions = [f"{major}.{minor}" for minor in range(lowest, highest + 1)]
    listed = f"{', '.join(versions[:-1])} or {versions[-1]}"
    makefile, readme = (root / "Makefile").read_text(), (root / "README.md").read_text()
    assert f"This course needs Python {listed}" in makefile and f"You need Python {listed}" in readme
    assert "|".join(f"{version}.*" for version in versions) in makefile
    assert f"Python {versions[0]} to {versions[-1]}" in (root / "requirements.txt").read_text()
    ruff = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["target-version"] == f"py{major}{lowest}"
