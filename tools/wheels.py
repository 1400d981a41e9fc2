"""Collect all packages of the course in a folder, for laptops without a network: python -m tools.wheels [macos 3.12]

One folder can hold the packages for several systems and versions of Python. `make setup WHEELS=FOLDER` installs from
it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from helpers.runtime import CourseError, output_folder, project_root

# What uv calls a system, and the tags of wheels that pip may take for it. On Windows the course runs in WSL, a Linux.
LIBC = [f"manylinux_2_{minor}" for minor in range(5, 29)] + ["manylinux2014", "manylinux2010", "manylinux1"]
SYSTEMS = {
    "linux": ("x86_64-manylinux_2_28", [f"{libc}_x86_64" for libc in LIBC]),
    "linux-arm": ("aarch64-manylinux_2_28", [f"{libc}_aarch64" for libc in LIBC]),
    "macos": ("aarch64-apple-darwin", ["macosx_14_0_arm64"]),  # on Apple's own processors; torch needs macOS 14
}
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def collect(root: Path, folder: Path, system: str = "", python: str = "") -> None:
    """Download what requirements.txt needs into `folder`, and check that it is complete.

    Without a system, this is for machines like this one, with this version of Python. With one, `python` names the
    version ("3.12"). Raises CourseError if a package cannot be had.
    """
    requirements, wheels = root / "requirements.txt", ["--disable-pip-version-check", "--quiet", "-r"]
    resolve = ["uv", "pip", "compile", "--quiet", "--no-header", "--python", sys.executable]
    if not system:
        # `wheel` and not `download`, because a package without a wheel would have to be built on every laptop.
        _run(["pip", "wheel", *wheels, requirements, "--wheel-dir", folder])
    else:
        name, tags = SYSTEMS[system]
        python = python or "{}.{}".format(*sys.version_info[:2])
        # Some packages refuse 3.11.0, and nobody has it anymore.
        python += ".9" if python.count(".") == 1 else ""
        resolve += ["--python-platform", name, "--python-version", python]
        # pip would read the requirements' conditions as if they were about this system, so uv makes the list.
        indexes = [part for url in os.environ.get("PIP_EXTRA_INDEX_URL", "").split() for part in ("--index", url)]
        with tempfile.TemporaryDirectory() as temporary:
            listed = Path(temporary, "list.txt")
            _run([*resolve, *indexes, "--index-strategy", "unsafe-best-match", requirements, "-o", listed])
            tagged = [f"--platform={tag}" for tag in tags]
            only = ["--no-deps", "--only-binary=:all:", f"--python-version={python}", *tagged]
            _run(["pip", "download", *only, *wheels, listed, "--dest", folder])
    _run([*resolve, "--no-index", "--find-links", folder, requirements, "-o", os.devnull])


def _run(command: Sequence[str | Path]) -> None:
    # uv would otherwise ask for wheels that also run on macOS 13, and torch has none.
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run([sys.executable, "-m", *command], env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = "\n    ".join(done.stderr.strip().splitlines()[-6:])
        raise CourseError(f"Not all packages could be had. Is there a network? {command[0]} said:\n    {said}")


def describe(folder: Path) -> str:
    """Return how many wheels there are, their size in MB, how to use them, and how to avoid CUDA if it is there."""
    wheels = sorted(folder.glob("*.whl"))
    text = f"{len(wheels)} packages, {sum(wheel.stat().st_size for wheel in wheels) / 1e6:.0f} MB: {folder}\n"
    cuda = sum(wheel.stat().st_size for wheel in wheels if wheel.name.startswith(("nvidia_", "cuda_", "triton-")))
    if cuda:
        text += (
            f"{cuda / 1e6:.0f} MB of these are CUDA, which only NVIDIA GPUs use. For laptops without one, delete this "
            f"folder, then type: make wheels PIP_EXTRA_INDEX_URL={CPU_INDEX}\n"
        )
    return text + "On each laptop, without a network: make lab WHEELS=FOLDER. FOLDER is a copy of this folder."


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheels", description=__doc__.splitlines()[0])
    parser.add_argument("system", nargs="?", default="", help=f"{', '.join(SYSTEMS)} (default: this one)")
    parser.add_argument("python", nargs="?", default="", help="version of Python, as in 3.12 (default: this one)")
    chosen = parser.parse_args(arguments)
    root = root or project_root()
    try:
        if chosen.python and not chosen.system:
            raise CourseError("Name the system, too: make wheels FOR=linux FOR_PYTHON=3.12")
        if chosen.system and chosen.system not in SYSTEMS:
            raise CourseError(f"There is no system {chosen.system!r}. Choose from: {', '.join(SYSTEMS)}.")
        folder = output_folder(root) / "wheels"
        print("Downloading. This takes one to ten minutes.", flush=True)
        collect(root, folder, chosen.system, chosen.python)
        print(describe(folder))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
