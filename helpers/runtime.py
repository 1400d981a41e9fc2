"""Which machine is this: packages, profile, seeds, and the folder that results go to.

Imports nothing heavy: the first cell of every notebook runs through here.
"""

import importlib.metadata
import itertools
import os
import random
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

PYTHON_RANGE = ((3, 11), (3, 13))
PROFILES = {"tiny": "the bundled model and its problems, on any CPU, offline"}
PLANNED_PROFILES = ("qwen", "qwen-full")


class CourseError(RuntimeError):
    """Something the reader can put right; a notebook shows the sentence alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def project_root() -> Path:
    """The folder that holds helpers/, notebooks/ and data/."""
    return Path(__file__).resolve().parent.parent


def output_folder(root: Path | None = None) -> Path:
    """The folder that notebooks write to, made if need be: COURSE_OUTPUT, else build/ in the project.

    Raises CourseError where it cannot be made.
    """
    folder = Path(os.environ.get("COURSE_OUTPUT") or (root or project_root()) / "build").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"Results cannot be written to {folder} ({error.strerror}); set COURSE_OUTPUT to another folder."
        ) from error
    return folder


def new_run_folder(name: str) -> Path:
    """A new, empty folder for a run's results below the output folder: `name`, or `name-2`, `name-3`, ... if taken.

    A run that is repeated never writes over what an earlier one left. Raises CourseError where it cannot be made.
    """
    folders = (output_folder() / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    folder = next(folder for folder in folders if not folder.exists())
    folder.mkdir()
    return folder


def ready(needs: Iterable[str] = ()) -> None:
    """Check Python and the packages a notebook needs ("trl>=1.16"), make libraries quiet, print "Ready".

    Raises CourseError with what is missing or too old and how to get it.
    """
    version = "{}.{}".format(*sys.version_info[:2])
    lowest, highest = PYTHON_RANGE
    if not lowest <= sys.version_info[:2] <= highest:
        raise CourseError(
            f"This course needs Python {lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]}, and this kernel is "
            f"{version}. Run in a terminal: make lab"
        )
    if missing := missing_packages(needs):
        # A hosted runtime will install what is missing at this point; on the reader's own machine nothing is touched.
        raise CourseError(
            f"This notebook also needs: {', '.join(missing)}. "
            "Run: pip install -r requirements.txt (in the project's folder), then restart the kernel."
        )
    quieten()
    share_cores()
    print(f"Ready. Python {version}")


def missing_packages(needs: Iterable[str]) -> list[str]:
    """Those of the requirements that are not installed, or not in a version that fits."""
    missing = []
    for need in needs:
        requirement = Requirement(need)
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(need)
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                missing.append(f"{need} (here is {installed})")
    return missing


def quieten() -> None:
    """Switch off progress bars and the warnings that come with them, which end up in outputs; loads no library."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # tqdm wants ipywidgets for its bars. Without them it writes text, and no widget state gets into the notebooks.
    warnings.filterwarnings("ignore", message="IProgress not found")


def share_cores() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless OMP_WAIT_POLICY says otherwise.

    Takes effect before torch is first imported. Awake, they take the cores from the verifier and from other programs:
    on two busy cores a training step then took twice as long, on two idle ones nothing changed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def offline() -> None:
    """Keep Hugging Face's libraries from asking the network, whether they are loaded already or not."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # They read the variable once, when they are imported.
    for module in ("huggingface_hub.constants", "datasets.config"):
        if module in sys.modules:
            sys.modules[module].HF_HUB_OFFLINE = True


def choose_profile() -> str:
    """The profile this machine can run, or the one that GRPO_PROFILE names; prints which and why.

    Raises CourseError for a name that does not exist.
    """
    name, reason = os.environ.get("GRPO_PROFILE", ""), "GRPO_PROFILE asks for it"
    if name in PLANNED_PROFILES:
        raise CourseError(f"GRPO_PROFILE={name} is not part of this version yet; unset it to use the profile tiny.")
    if name and name not in PROFILES:
        raise CourseError(f"GRPO_PROFILE={name} is no profile; there is: {', '.join(PROFILES)}.")
    if not name:
        name = "tiny"
        reason = "this version has no other, though there is a GPU" if has_gpu() else "there is no GPU here"
    if name == "tiny":
        offline()
    print(f"Profile {name}: {PROFILES[name]} ({reason}).")
    return name


def has_gpu() -> bool:
    """Whether PyTorch finds a CUDA device."""
    import torch

    return torch.cuda.is_available()


def set_seeds(seed: int, with_torch: bool = True) -> None:
    """Seed random, numpy (where it is loaded) and torch (imported here; with_torch=False leaves it out)."""
    random.seed(seed)
    if with_torch:
        import torch

        torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
