"""runtime: the folder for results, the check of packages; and that it imports nothing heavy."""

import subprocess
import sys
import types
import warnings

import pytest

from helpers import runtime
from helpers.runtime import CourseError


def fresh(code: str, root, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, in the project's folder."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_root_holds_the_project(root):
    assert runtime.project_root() == root
    assert (root / "requirements.txt").is_file()


def test_results_go_to_the_folder_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "new" / "results"))
    assert runtime.output_folder() == tmp_path / "new" / "results"
    assert runtime.output_folder().is_dir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_OUTPUT", "~/results")
    assert runtime.output_folder() == tmp_path / "results"


def test_results_go_to_build_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "project_root", lambda: tmp_path)
    monkeypatch.setenv("COURSE_OUTPUT", "")
    assert runtime.output_folder() == tmp_path / "build"
    assert (tmp_path / "build").is_dir()


def test_a_folder_that_cannot_be_made_gets_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "file" / "results"))
    with pytest.raises(CourseError, match="set COURSE_OUTPUT to another folder"):
        runtime.output_folder()


def test_ready_if_nothing_is_missing(capsys):
    runtime.ready(["pytest>=1", "packaging"])
    assert capsys.readouterr().out == f"Ready. Python {sys.version_info[0]}.{sys.version_info[1]}\n"


def test_ready_names_what_is_missing_or_old():
    with pytest.raises(CourseError) as raised:
        runtime.ready(["packaging", "pytest>=999", "no-such-package-for-this-course"])
    message = str(raised.value)
    assert f"pytest>=999 (here is {pytest.__version__})" in message
    assert "no-such-package-for-this-course" in message
    assert "packaging" not in message
    assert "pip install -r requirements.txt" in message and "restart the kernel" in message


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0)])
@pytest.mark.parametrize(("host", "way"), [("", "Run in a terminal"), ("COLAB_RELEASE_TAG", "Choose another version")])
def test_ready_refuses_other_pythons(version, host, way, monkeypatch):
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setenv(host or "NO_HOST", "1")
    with pytest.raises(CourseError, match=rf"needs Python 3\.11 to 3\.13, and this kernel is 3\.1[04]\. {way}"):
        runtime.ready()


def test_a_notebook_shows_the_sentence_alone():
    assert CourseError("One sentence.")._render_traceback_() == ["One sentence."]


def test_the_first_cell_loads_nothing_heavy(root):
    code = """
import sys
from helpers.runtime import ready
ready(["torch>=2", "trl>=1", "transformers", "matplotlib"])
heavy = {"torch", "numpy", "trl", "transformers", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    done = fresh(code, root)
    assert done.returncode == 0, done.stderr


def test_offline_reaches_libraries_that_are_loaded(monkeypatch):
    loaded = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", loaded)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    runtime.offline()
    assert loaded.HF_HUB_OFFLINE is True


@pytest.mark.parametrize("order", ["before", "after"])
def test_offline_is_what_the_hub_library_then_says(order, root):
    code = ["from helpers import runtime; runtime.offline()", "import huggingface_hub.constants as hub"]
    code = code if order == "before" else code[::-1]
    done = fresh("\n".join([*code, "assert hub.is_offline_mode()"]), root)
    assert done.returncode == 0, done.stderr


def test_a_repeated_run_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    first = runtime.new_run_folder("04_demo")
    (first / "result.json").write_text("mine")
    assert [runtime.new_run_folder("04_demo").name for _ in range(2)] == ["04_demo-2", "04_demo-3"]
    assert (first / "result.json").read_text() == "mine"


def test_waiting_threads_sleep_unless_the_reader_wants_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    runtime.prepare_libraries()
    assert runtime.os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    runtime.prepare_libraries()
    assert runtime.os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_the_warning_about_a_setting_that_trl_has_not_renamed_yet_is_hidden():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        runtime.prepare_libraries()
        warnings.warn("`gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning, stacklevel=1)
        warnings.warn("something else is deprecated", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["something else is deprecated"]
