"""Run the notebooks; refresh and check what is committed of them: python -m tools.notebooks COMMAND."""

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers.run_folder import before_after_table
from helpers.runtime import CourseError, output_folder, project_root
from tools.hygiene import KERNEL, faults, normalise, sizes, tags_of
from tools.opening import bootstrap, publish

RESULT_NOTEBOOK = "04_grpo_on_humaneval"
README_PICTURE = "docs/learning_curve.png"
PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


class NotebookFailed(CourseError):
    """A notebook did not run to its end. The message names the cell and gives the end of the traceback."""


def run_for_names(
    module: str,
    description: str,
    function: Callable[[Path, list[str]], int],
    arguments: Sequence[str] | None = None,
    root: Path | None = None,
) -> int:
    """Run a command that takes names of notebooks. Returns its exit status: 1, with a sentence, for a CourseError."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description.splitlines()[0])
    parser.add_argument("names", nargs="*", help="start of the notebooks' file names, as in 04 (default: all)")
    chosen = parser.parse_args(arguments)
    try:
        return function(root or project_root(), chosen.names)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1


def notebook_paths(root: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks in order, or only those whose file names start with one of `names`.

    Raises CourseError if no file name starts with one of them.
    """
    paths = sorted((root / "notebooks").glob("*.ipynb"))
    for name in names:
        if not any(path.name.startswith(name) for path in paths):
            there = ", ".join(path.stem for path in paths) or "none"
            raise CourseError(f"No notebook's name starts with {name!r}. Choose from: {there}.")
    return [path for path in paths if not names or path.name.startswith(tuple(names))]


def execute(path: Path, output: Path) -> Any:
    """Run a copy of a notebook in `output` with a fresh kernel, and return it executed.

    The notebook writes its results to `output` too. If a cell fails, the copy shows how far the notebook got. Raises
    NotebookFailed.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    shutil.rmtree(output / path.stem, ignore_errors=True)  # Otherwise an older result could pass for this run's.
    output.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, output / path.name)
    said = run_nbmake(output / path.name, path.parent.parent)
    notebook = nbformat.read(output / path.name, as_version=4)
    if said:
        raise NotebookFailed(_failure(notebook.cells, said))
    return notebook


def run_nbmake(copy: Path, root: Path) -> str:
    """Let nbmake execute the copy in place. Return what it printed if the notebook failed, otherwise nothing."""
    # MPLBACKEND keeps figures out of the outputs, and COURSE_STRICT makes every unanswered exercise an error.
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "COURSE_STRICT")}
    # There is no limit of time: with a large model one cell trains for hours.
    options = ["--nbmake", "--overwrite", "--nbmake-timeout=-1", "--timeout=0", f"--nbmake-kernel={KERNEL['name']}"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, copy]
    # The bootstrap cell looks for the course in the folders above the notebook, and in grpo-course next to it.
    link = copy.parent / "grpo-course"
    is_outside = root.resolve() not in copy.resolve().parents
    if is_outside and not link.exists():
        link.symlink_to(root.resolve())
    process = subprocess.Popen(
        command,
        env=environment | {"COURSE_OUTPUT": str(copy.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate()
    except KeyboardInterrupt:
        # Ctrl-C has reached nbmake as well. It needs a moment to end the kernel.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.kill()
        raise
    finally:
        if link.is_symlink():
            link.unlink()
    return said if process.returncode else ""


def _failure(cells: Sequence[Any], said: str) -> str:
    """Describe the error that stopped the notebook: the cell and the end of the traceback."""
    for number, cell in enumerate(cells, 1):
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        if errors and "raises-exception" not in tags_of(cell):
            first = next((line for line in cell.source.splitlines() if line.strip()), "")
            where = f"cell {number} ({cell.get('id', 'no id')}) failed: {first}"
            return "\n    ".join([where, *_last_lines("\n".join(errors[-1].traceback))])
    if "DeadKernelError" in said:
        return "the kernel died. Often this means that the machine has too little memory."
    return "\n    ".join(["nbmake stopped:", *_last_lines(said)])


def _last_lines(text: str) -> list[str]:
    return [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()][-8:]


def run(root: Path, names: Sequence[str] = ()) -> int:
    """Execute the notebooks in order, in build/run/, and print the scores before and after training.

    Replaces what an earlier call wrote there for the same notebooks. Returns the exit status.
    """
    output = output_folder(root) / "run"
    paths = notebook_paths(root, names)
    if not paths:
        raise CourseError(f"There is no notebook in {root / 'notebooks'} to run.")
    for path in paths:
        _execute_and_tell(path, output)
    print(f"Peak memory of a kernel: {peak_memory():.1f} GB. Executed notebooks and results: {output}")
    if RESULT_NOTEBOOK in [path.stem for path in paths] or not names:
        print("\n" + result_table(output / RESULT_NOTEBOOK / "result.json"))
    return 0


def _execute_and_tell(path: Path, output: Path) -> Any:
    start = time.perf_counter()
    print(f"{path.stem:<32}", end="", flush=True)
    try:
        notebook = execute(path, output)
    except NotebookFailed as error:
        print(f"failed after {time.perf_counter() - start:.0f} s")
        raise NotebookFailed(f"{path.name}, {error}\nThe notebook as far as it ran: {output / path.name}") from None
    print(f"{time.perf_counter() - start:6.1f} s", flush=True)
    return notebook


def peak_memory() -> float:
    """Return the peak memory of the largest finished child process in GB, or nan if the system does not report it."""
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9


def result_table(path: Path) -> str:
    """Return the before/after table of a result.json. Raises CourseError if the file or a value in it is missing."""
    try:
        return before_after_table(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CourseError(f"No before/after table: {RESULT_NOTEBOOK} has not written {path}.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CourseError(
            f"No before/after table: {path} is not as expected ({type(error).__name__} {error})."
        ) from None


def outputs(root: Path, names: Sequence[str] = ()) -> int:
    """Execute the notebooks and commit their outputs to the files, normalised; returns the exit status.

    A notebook that fails keeps the outputs that it had.
    """
    import nbformat

    for path in notebook_paths(root, names):
        notebook = _execute_and_tell(path, output_folder(root) / "outputs")
        normalise(notebook, root)
        unfinished = path.with_suffix(".unfinished")
        nbformat.write(notebook, unfinished)
        os.replace(unfinished, path)
        if picture := readme_picture(notebook):
            (root / "docs").mkdir(exist_ok=True)
            (root / README_PICTURE).write_bytes(picture)
    return check(root, names)


def readme_picture(notebook: Any) -> bytes | None:
    """Return the picture that the README shows: the last one in the cell tagged `readme-picture`, if there is one."""
    outputs = [out for cell in notebook.cells if "readme-picture" in tags_of(cell) for out in cell.outputs]
    pictures = []
    for data in (output.get("data", {}) for output in outputs):
        pictures += [data["image/png"]] if "image/png" in data else PNG.findall(data.get("text/html", ""))
    return base64.b64decode(pictures[-1]) if pictures else None


def check(root: Path, names: Sequence[str] = ()) -> int:
    """Print the sizes of the committed notebooks and a line for each fault; returns the exit status."""
    paths = notebook_paths(root, names)
    found = [f"{path.relative_to(root)}: {fault}" for path in paths for fault in faults(path, root)]
    print("\n".join([sizes(paths), *(found or [f"Notebooks in order: {len(paths)}."])]))
    return 1 if found else 0


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the command line; returns the exit status."""
    commands = {
        "run": run,
        "outputs": outputs,
        "check": check,
        "bootstrap": lambda root, names: bootstrap(notebook_paths(root, names)),
        "publish": lambda root, arguments: publish(root, notebook_paths(root), arguments),
    }
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=commands)
    parser.add_argument(
        "names",
        nargs="*",
        help="start of the file names, as in: run 04 (default: all notebooks); for publish: address, and branch or tag",
    )
    chosen = parser.parse_args(arguments)
    try:
        return commands[chosen.command](root or project_root(), chosen.names)
    except CourseError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
