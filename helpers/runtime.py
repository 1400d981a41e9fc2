"""Prepare a notebook: check its packages, set up libraries, set seeds, and find the folders of the project.

This module imports nothing heavy and no other helper, because the first cell of every notebook runs through it.
"""

import importlib.metadata
import itertools
import os
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

PYTHON_RANGE = ((3, 11), (3, 13))
# The environment variable that identifies a hosted runtime, and its menu item for a restart. Kaggle comes first,
# because it sets Colab's variable too.
HOSTS = {"KAGGLE_KERNEL_RUN_TYPE": "Run > Restart", "COLAB_RELEASE_TAG": "Runtime > Restart session"}
# Never reinstall these packages on a hosted runtime. They are gigabytes large, built for each other, or imported
# before the first cell runs.
SHIPPED = ("torch", "torchvision", "torchaudio", "triton", "numpy", "scipy", "pandas", "transformers")
REPLACED: set[str] = set()
"""Packages that were imported before `install` replaced them. Only a restart helps."""


class CourseError(RuntimeError):
    """An error that the reader can fix. A notebook shows only its message, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def project_root() -> Path:
    """Return the folder that contains helpers/, notebooks/ and data/.

    >>> (project_root() / "helpers" / "runtime.py").is_file()
    True
    """
    return Path(__file__).resolve().parent.parent


def output_folder(root: Path | None = None) -> Path:
    """Return the folder that notebooks write to, and create it: COURSE_OUTPUT, else build/ in the project.

    Raises CourseError if the folder cannot be created.
    """
    chosen = os.path.expanduser(os.environ.get("COURSE_OUTPUT", ""))
    folder = Path(chosen or (root or project_root()) / "build").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"Results cannot be written to {folder} ({error.strerror}); set COURSE_OUTPUT to another folder."
        ) from error
    return folder


def new_run_folder(name: str) -> Path:
    """Create a new, empty folder in the output folder: `name`, or `name-2`, `name-3`, ... if that is taken.

    So a repeated run never overwrites the results of an earlier one. Raises CourseError if the output folder cannot be
    created.
    """
    folders = (output_folder() / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    folder = next(folder for folder in folders if not folder.exists())
    folder.mkdir()
    return folder


def ready(needs: Iterable[str] = ()) -> None:
    """Check Python and the packages that a notebook needs ("trl>=1.16"), make libraries quiet, print "Ready".

    On a hosted runtime this installs missing packages first; anywhere else it installs nothing. Raises CourseError
    that names what is missing or too old, and how to get it.
    """
    version = "{}.{}".format(*sys.version_info[:2])
    lowest, highest = PYTHON_RANGE
    restart = next((menu for variable, menu in HOSTS.items() if variable in os.environ), "")
    if not lowest <= sys.version_info[:2] <= highest:
        raise CourseError(
            f"This course needs Python {lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]}, and this kernel is "
            f"{version}. " + ("Choose another version of this runtime." if restart else "Run in a terminal: make lab")
        )
    missing = missing_packages(needs)
    if restart:
        install(missing, restart)
    elif missing:
        raise CourseError(
            f"This notebook also needs: {_in_words(missing)}. "
            "Run: pip install -r requirements.txt (in the project's folder), then restart the kernel."
        )
    prepare_libraries()
    print(f"Ready. Python {version}")


def missing_packages(needs: Iterable[str]) -> dict[str, str]:
    """Return the requirements that are not met, each with the installed version, or "" if there is none.

    >>> missing_packages(["packaging>=20", "no-such-package"])
    {'no-such-package': ''}
    """
    missing = {}
    for need in needs:
        requirement = Requirement(need)
        try:
            here = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            here = ""
        if not here or not requirement.specifier.contains(here, prereleases=True):
            missing[need] = here
    return missing


def _in_words(missing: dict[str, str]) -> str:
    return ", ".join(f"{need} (here is {here})" if here else need for need, here in missing.items())


def install(missing: dict[str, str], restart: str) -> None:
    """Install missing packages on a hosted runtime, but leave the ones in SHIPPED at the version they have.

    `restart` is the menu item that the reader must choose to restart. Raises CourseError if an imported package was
    replaced, if pip fails, or if a package in SHIPPED is too old.
    """
    if old := {need: here for need, here in missing.items() if here and Requirement(need).name in SHIPPED}:
        raise CourseError(
            f"This notebook needs {_in_words(old)}, which is a part of this runtime: choose its newest version."
        )
    if missing:
        from IPython import get_ipython

        before = _versions()
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
            kept.writelines(f"{name}=={before[name]}\n" for name in SHIPPED if name in before)
            kept.flush()
            # Run pip the way a cell's `!pip install` does, and without -q. Only then does Colab show its own button
            # to restart.
            get_ipython().system(shlex.join(["pip", "install", "-c", kept.name, *missing]))
        importlib.invalidate_caches()
        if left := missing_packages(missing):
            raise CourseError(f"pip could not install {_in_words(left)}; its own last lines, above, say why.")
        changed = {name for name, _ in before.items() - _versions().items()}
        of_module = importlib.metadata.packages_distributions()
        loaded = {name.lower() for module in of_module.keys() & sys.modules.keys() for name in of_module[module]}
        REPLACED.update(changed & loaded)
    if REPLACED:
        raise CourseError(
            f"Installed, but older versions of {', '.join(sorted(REPLACED))} were loaded before: "
            f"choose {restart}, then run this cell again."
        )


def _versions() -> dict[str, str]:
    # If a package is installed twice, Python imports the first one, so that one must be the last to enter the dict.
    found = reversed(list(importlib.metadata.distributions()))
    return {(package.metadata["Name"] or "").lower(): package.version for package in found}


def prepare_libraries() -> None:
    """Switch off progress bars and needless warnings, and let idle threads sleep. Imports no library.

    Call this before torch is first imported.
    """
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # By default, OpenMP's threads wait for each other in a busy loop and take the cores from the verifier and from
    # other programs. On two busy cores, a training step then took twice as long; on two idle cores this setting changed
    # nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Without ipywidgets tqdm warns and then writes its bars as text. That suits us: a notebook saved with widgets
    # would also contain their state.
    warnings.filterwarnings("ignore", message="IProgress not found")
    # TRL 1.16 still uses the name that transformers renamed in 5.23. Readers cannot do anything about that.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)


def offline() -> None:
    """Keep Hugging Face's libraries off the network, whether or not they are already imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # They read the variable only once, at import, so an imported library must be told directly.
    for module in ("huggingface_hub.constants", "datasets.config"):
        if module in sys.modules:
            vars(sys.modules[module])["HF_HUB_OFFLINE"] = True
