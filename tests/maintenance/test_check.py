"""tools.check: what it finds, and what it says to do."""

import builtins
import sys
from types import SimpleNamespace

import pytest

from helpers.verifier import LayerState
from tools import check


def test_all_checks_run_and_one_that_fails_is_counted(capsys):
    def broken() -> str:
        raise check.NotReady("no room. Delete something.")

    def unforeseen() -> str:
        raise OSError("a cable is loose")

    assert check.main({"one": lambda: "fine", "two": broken, "three": unforeseen, "four": lambda: "good"}) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said[:4]] == [["✔", "one"], ["✘", "two"], ["✘", "three"], ["✔", "four"]]
    assert "Delete something." in said[1] and "OSError: a cable is loose" in said[2]
    assert said[4].startswith("Not ready yet: 2 of 4 checks failed.")


def test_a_machine_that_passes_is_ready(capsys):
    assert check.main({"one": lambda: "fine"}) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Ready: type make lab to start.")


def test_a_missing_package_is_a_line_and_no_traceback(monkeypatch, capsys):
    real = builtins.__import__

    def without_helpers(name, *rest):
        if name.startswith("helpers"):
            raise ModuleNotFoundError("No module named 'packaging'", name="packaging")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_helpers)
    assert check.main({"Python": check.python}) == 1
    assert "the package packaging is missing. Type: rm .venv/ready, then make setup" in capsys.readouterr().out


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 14, 0)])
def test_a_python_out_of_range_is_refused(version, monkeypatch):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(check.NotReady, match=r"the course needs 3.11 to 3.13.*PYTHON=python3.13"):
        check.python()


def test_packages_must_have_the_pinned_versions(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# a comment\n\npackaging==1.0\nno-such-package==2.0\n")
    with pytest.raises(check.NotReady, match=r"packaging==1.0 \(here is \d.*no-such-package==2.0 \(here is none\)"):
        check.packages(requirements)
    requirements.write_text("packaging>=20\n")
    assert check.packages(requirements) == "all 1 of requirements.txt"


def test_too_little_memory_or_disk_is_told(tmp_path, monkeypatch):
    assert check.memory(2.1) == "2.1 GB free" and "GB free" in check.memory()
    with pytest.raises(check.NotReady, match="1.9 GB free, and a notebook needs 2. Close"):
        check.memory(1.9)
    assert "GB free" in check.disk(tmp_path)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0.9e9))
    with pytest.raises(check.NotReady, match="0.9 GB free"):
        check.disk(tmp_path)


def test_a_missing_layer_is_named_but_is_no_failure(monkeypatch):
    layers = {"Landlock": LayerState(False, "this kernel has none"), "session": LayerState(True, "")}
    monkeypatch.setattr("helpers.verifier.isolation_report", lambda: layers)
    assert check.isolation().startswith(
        "1 of 2 layers are on. Missing, but grading works: Landlock (this kernel has none)"
    )


def test_a_grader_that_passes_everything_is_found(monkeypatch):
    assert "a cheat fail" in check.grading()
    monkeypatch.setattr("helpers.rewards.passes_tests", lambda prompts, *_, **__: [1.0] * len(prompts))
    with pytest.raises(check.NotReady, match=r"\[1.0, 1.0, 1.0\] instead of"):
        check.grading()


@pytest.mark.slow
def test_training_is_timed_and_a_slow_machine_is_told(monkeypatch):
    monkeypatch.setattr(check, "SLOW_SECONDS", 0)
    said = check.training()
    assert said.startswith("2 steps, ") and "in notebook 04. That is slow." in said
