"""Say whether this machine is ready for the course, and if not, what to do: python -m tools.check

Everything is imported inside the checks, so that a missing package is a line of the answer and not a traceback.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEMORY_GB = 2.0  # a kernel that trains takes up to 1.4 GB, JupyterLab and a browser want the rest
DISK_GB = 1.0  # results, checkpoints and samples of all notebooks
SLOW_SECONDS = 3.0  # of a training step: at this pace notebook 04 trains for about four minutes instead of one


class NotReady(Exception):
    """What keeps this machine from running the course, and what to do about it."""


def python() -> str:
    """Check the version of Python."""
    from helpers.runtime import PYTHON_RANGE

    lowest, highest = ("{}.{}".format(*version) for version in PYTHON_RANGE)
    here = "{}.{}".format(*sys.version_info[:2])
    if not PYTHON_RANGE[0] <= sys.version_info[:2] <= PYTHON_RANGE[1]:
        raise NotReady(
            f"{here}, but the course needs {lowest} to {highest}. Install one of them, then type: "
            f"make clean, then make setup PYTHON=python{highest}"
        )
    return here


def packages(requirements: Path = ROOT / "requirements.txt") -> str:
    """Check that the pinned packages are installed, in these versions."""
    from helpers.runtime import missing_packages

    lines = requirements.read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    if missing := missing_packages(pinned):
        wrong = ", ".join(f"{need} (here is {here or 'none'})" for need, here in missing.items())
        raise NotReady(f"not as in requirements.txt: {wrong}. Type: rm .venv/ready, then make setup")
    return f"all {len(pinned)} of requirements.txt"


def memory(available: float | None = None) -> str:
    """Check the memory that programs can still get, in GB. If the system does not say, take all that it has."""
    from helpers.memory import device_memory

    words = Path("/proc/meminfo").read_text().split() if os.path.exists("/proc/meminfo") else []
    if available is None and "MemAvailable:" in words:
        available = int(words[words.index("MemAvailable:") + 1]) * 1024 / 1e9
    elif available is None:
        available = device_memory("cpu") / 1e9
    if available < MEMORY_GB:
        raise NotReady(f"{available:.1f} GB free, and a notebook needs {MEMORY_GB:g}. Close other programs.")
    return f"{available:.1f} GB free"


def disk(folder: Path | None = None) -> str:
    """Check that results can be written, and that there is room for them."""
    from helpers.runtime import output_folder

    folder = folder or output_folder(ROOT)
    with tempfile.TemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_GB:
        raise NotReady(f"{free:.1f} GB free for {folder}, and the results need {DISK_GB:g}. Delete something.")
    return f"{free:.0f} GB free"


def isolation() -> str:
    """Say which layers isolate the programs that a model writes. Without some of them grading still works."""
    from helpers.verifier import isolation_report

    layers = isolation_report()
    missing = [f"{name} ({layer.detail})" for name, layer in layers.items() if not layer.on]
    said = f"{len(layers) - len(missing)} of {len(layers)} layers are on"
    if missing:
        said += f". Missing, but grading works: {'; '.join(missing)}. Details are in SECURITY.md"
    return said


def grading() -> str:
    """Grade a correct program, a wrong one, and one that ends itself. Only the first may pass."""
    from helpers.problems import load_problems
    from helpers.rewards import passes_tests

    problem = load_problems("tiny")[0]
    programs = [problem.canonical_solution, "    return None\n", "    raise SystemExit(0)\n"]
    columns = {"test": [problem.test] * 3, "entry_point": [problem.entry_point] * 3}
    rewards = passes_tests([problem.prompt] * 3, programs, **columns)
    if rewards != [1.0, 0.0, 0.0]:
        raise NotReady(f"the rewards of three programs are {rewards} instead of [1.0, 0.0, 0.0]. Run: make test")
    return "a correct program passes, a wrong one and a cheat fail"


def training(steps: int = 2) -> str:
    """Train the bundled model for two steps, and say how fast that is."""
    from helpers.problems import load_sets
    from helpers.profiles import settings_here
    from helpers.rewards import passes_tests
    from helpers.training import build_trainer
    from helpers.trials import load_untrained

    settings = settings_here("tiny", max_steps=steps)
    model, tokenizer = load_untrained(settings)
    problems, _ = load_sets(settings.problems)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = build_trainer(settings, model, tokenizer, problems, passes_tests, folder, allow_no_signal=True)
        trainer.train()
    seconds = trainer.train_seconds / steps
    whole = settings_here("tiny").max_steps * seconds
    said = f"{steps} steps, {seconds:.1f} s each: about {whole:.0f} s for the training in notebook 04"
    return said if seconds < SLOW_SECONDS else f"{said}. That is slow. Close other programs, or use mains power"


CHECKS: dict[str, Callable[[], str]] = {
    "Python": python,
    "packages": packages,
    "memory": memory,
    "disk": disk,
    "isolation": isolation,
    "grading": grading,
    "training": training,
}


def main(checks: dict[str, Callable[[], Any]] | None = None) -> int:
    """Run the checks, print a line for each, and return the exit status: 1 if one of them failed."""
    start, failed = time.perf_counter(), 0
    with contextlib.suppress(ModuleNotFoundError):
        from helpers.runtime import prepare_libraries

        prepare_libraries()  # before anything imports torch
    for name, check in (checks or CHECKS).items():
        try:
            mark, said = "✔", check()
        except ModuleNotFoundError as error:
            mark, said = "✘", f"the package {error.name} is missing. Type: rm .venv/ready, then make setup"
        except NotReady as error:
            mark, said = "✘", str(error)
        except Exception as error:  # whatever it is, the reader needs the sentence and the checks that follow
            mark, said = "✘", f"{type(error).__name__}: {error}"
        failed += mark == "✘"
        print(f"{mark} {name:<10} {said}", flush=True)
    seconds = f"This took {time.perf_counter() - start:.0f} s."
    if failed:
        print(f"Not ready yet: {failed} of {len(checks or CHECKS)} checks failed. {seconds}")
        return 1
    print(f"Ready: type make lab to start. {seconds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
