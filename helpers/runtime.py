"""Which machine is this: packages, profile, seeds, and the folder that results go to.

Imports nothing heavy: the first cell of every notebook runs through here.
"""

import importlib.metadata
import itertools
import os
import random
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

PYTHON_RANGE = ((3, 11), (3, 13))
# Hosted runtimes by the variable that tells them, and their menu for a restart. Kaggle sets Colab's variable too.
HOSTS = {"KAGGLE_KERNEL_RUN_TYPE": "Run > Restart", "COLAB_RELEASE_TAG": "Runtime > Restart session"}
# Parts of a hosted image that stay as they are: gigabytes, loaded before the first cell, or built for each other.
SHIPPED = ("torch", "torchvision", "torchaudio", "triton", "numpy", "scipy", "pandas", "transformers")
REPLACED: set[str] = set()
"""Loaded packages that `install` has replaced; true until this process ends, which is what mends it."""
PROFILES = {
    "tiny": "the bundled model and its problems, on any CPU, offline",
    "qwen": "a code model of half a billion weights on HumanEval, sized for a GPU of 16 GB",
    "qwen-full": "the same model with larger groups and more steps, sized for a GPU of 24 GB",
}
GPU_GIB = {"qwen": 14, "qwen-full": 22}  # what cards sold as 16 and 24 GB have for programs


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

    On a hosted runtime what is missing is installed first; anywhere else nothing is touched. Raises CourseError with
    what is missing or too old and how to get it.
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
    quieten()
    share_cores()
    print(f"Ready. Python {version}")


def missing_packages(needs: Iterable[str]) -> dict[str, str]:
    """The requirements that are not met, each with the version that is here, "" where there is none."""
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
    """Install what a hosted runtime lacks, and leave what its image ships (SHIPPED) in the version it has.

    `restart` is the menu that restarts it. Raises CourseError where something that is loaded was replaced, where pip
    fails, and where what the image ships is too old.
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
            # As a cell's `!pip install`, and without -q: nothing else brings up Colab's own button to restart.
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
    # Of a package that is there twice the first one is used.
    found = reversed(list(importlib.metadata.distributions()))
    return {(package.metadata["Name"] or "").lower(): package.version for package in found}


def quieten() -> None:
    """Switch off progress bars and the warnings that come with them, which end up in outputs; loads no library."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # tqdm wants ipywidgets for its bars. Without them it writes text, and no widget state gets into the notebooks.
    warnings.filterwarnings("ignore", message="IProgress not found")
    # TRL 1.16 uses this name throughout; transformers changed it in 5.23. Nothing that a reader could act on.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)


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

    A GPU and a model that is here, or can be fetched, make it "qwen" or "qwen-full". Raises CourseError for a name
    that does not exist.
    """
    name, reason = os.environ.get("GRPO_PROFILE", ""), "GRPO_PROFILE asks for it"
    if name and name not in PROFILES:
        raise CourseError(f"GRPO_PROFILE={name} is no profile; there is: {', '.join(PROFILES)}.")
    if not name:
        name, reason = _fitting_profile()
    if name == "tiny":
        offline()
    print(f"Profile {name}: {PROFILES[name]} ({reason}).")
    return name


def _fitting_profile() -> tuple[str, str]:
    """The largest profile that can run here, and why it is that one."""
    if not has_gpu():
        return "tiny", "there is no GPU here"
    size = gpu_gib()
    fitting = [name for name, needed in GPU_GIB.items() if size >= needed]
    if not fitting:
        return "tiny", f"the GPU has {size:.0f} GiB, and the others want {min(GPU_GIB.values())}"
    from helpers import hub, settings  # settings imports this module

    model = os.environ.get("GRPO_MODEL") or settings.profile_settings(fitting[-1]).model
    if obstacle := hub.obstacle(model):
        return "tiny", f"there is a GPU, but not {model}: {obstacle}"
    return fitting[-1], f"the GPU has {size:.0f} GiB"


def has_gpu() -> bool:
    """Whether PyTorch finds a CUDA device; of several, only the first is used from here on."""
    # TRL refuses several in one process. Takes effect where CUDA has not been used before.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    import torch

    return torch.cuda.is_available()


def gpu_gib() -> float:
    """Memory of the GPU in GiB."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 2**30


def bf16_gpu() -> bool:
    """Whether the GPU computes bf16 itself; older ones, as a T4, only imitate it."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def set_seeds(seed: int, with_torch: bool = True) -> None:
    """Seed random, numpy (where it is loaded) and torch (imported here; with_torch=False leaves it out)."""
    random.seed(seed)
    if with_torch:
        import torch

        torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
