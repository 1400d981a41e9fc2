"""tools.wheels: what it asks of pip and uv, with a stand-in for both, so that nothing is downloaded."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import wheels


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were called. They succeed and do nothing."""
    called: list[list[str]] = []

    def run(command, **options):
        called.append([str(part) for part in command[2:]])
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return called


def test_for_this_system_pip_collects_wheels_and_uv_checks_them_without_a_network(commands, tmp_path):
    assert wheels.main(["", ""], root=tmp_path) == 0
    collected, checked = commands
    assert collected[:2] == ["pip", "wheel"] and collected[-1] == str(tmp_path / "build/wheels")
    assert checked[:3] == ["uv", "pip", "compile"] and "--no-index" in checked and "--python-platform" not in checked


def test_for_another_system_its_own_wheels_are_taken(commands, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example")
    assert wheels.main(["macos", "3.12"], root=tmp_path) == 0
    listed, downloaded, checked = commands
    assert "aarch64-apple-darwin" in listed and "aarch64-apple-darwin" in checked and "https://one.example" in listed
    assert {"--platform=macosx_14_0_arm64", "--only-binary=:all:", "--python-version=3.12.9"} <= set(downloaded)


def test_without_a_network_there_is_a_sentence(tmp_path, monkeypatch, capsys):
    broken = SimpleNamespace(returncode=1, stderr="Could not find a version\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: broken)
    assert wheels.main([], root=tmp_path) == 1
    assert "Is there a network? pip said:\n    Could not find a version" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"), [(["windows"], "Choose from: linux,"), (["", "3.12"], "Name the system")]
)
def test_a_wrong_target_gets_a_sentence(arguments, told, commands, tmp_path, capsys):
    assert wheels.main(arguments, root=tmp_path) == 1
    assert told in capsys.readouterr().err and not commands


def test_the_size_is_told_and_cuda_is_noticed(tmp_path: Path):
    (tmp_path / "torch-2-py3-none-any.whl").write_bytes(bytes(3_000_000))
    assert wheels.describe(tmp_path).startswith("1 packages, 3 MB: ") and "CUDA" not in wheels.describe(tmp_path)
    (tmp_path / "nvidia_x-2-py3-none-any.whl").write_bytes(bytes(2_000_000))
    assert "2 MB of these are CUDA" in wheels.describe(tmp_path)
