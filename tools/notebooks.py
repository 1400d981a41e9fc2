"""Run the notebooks, refresh and check what is committed of them: python -m tools.notebooks COMMAND."""

import argparse
import base64
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.runtime import CourseError, output_folder, project_root
from tools.hygiene import KERNEL, faults, normalise, sizes, tags_of
from tools.opening import bootstrap, publish

RESULT_NOTEBOOK = "04_grpo_on_humaneval"
README_PICTURE = "docs/learning_curve.png"


class NotebookFailed(CourseError):
    """A notebook that stopped; the message names the cell and ends with the end of the traceback."""


def notebook_paths(root: Path, names: Sequence[str] = ()) -> list[Path]:
    """The notebooks in order, or those whose file names begin with one of the names.

    Raises CourseError for a name that fits none.
    """
    paths = sorted((root / "notebooks").glob("*.ipynb"))
    for name in names:
        if not any(path.name.startswith(name) for path in paths):
            there = ", ".join(path.stem for path in paths) or "none"
            raise CourseError(f"No notebook's name begins with {name!r}; there is: {there}.")
    return [path for path in paths if not names or path.name.startswith(tuple(names))]


def execute(path: Path, output: Path) -> Any:
    """Run a notebook from its own folder with a fresh kernel and return it; its results go below `output`.

    Writes a copy to `output`, also when a cell fails. Raises NotebookFailed.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    shutil.rmtree(output / path.stem, ignore_errors=True)  # an older run's result must not pass for this one's
    output.mkdir(parents=True, exist_ok=True)
    # MPLBACKEND would keep figures out of the outputs, COURSE_STRICT would make every open exercise an error.
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "COURSE_STRICT")}
    current = [0]
    client = NotebookClient(
        notebook,
        timeout=None,  # with a large model one cell trains for hours
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
        # What the kernel says about its own transport and its own end is no news to a reader.
        extra_arguments=["--log-level=CRITICAL"],
        on_cell_execute=lambda cell, cell_index: current.append(cell_index),
    )
    try:
        client.execute(env=environment | {"COURSE_OUTPUT": str(output)})
    except (CellExecutionError, DeadKernelError) as error:
        raise NotebookFailed(_failure(notebook.cells[current[-1]], current[-1] + 1, str(error))) from None
    except AssertionError:
        if client.km is None:  # nbclient ended the kernel on Ctrl-C, and then misses it when it cleans up
            raise KeyboardInterrupt from None
        raise
    finally:
        nbformat.write(notebook, output / path.name)
    return notebook


def _failure(cell: Any, number: int, reason: str) -> str:
    errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
    shown = "\n".join(errors[-1].traceback) if errors else reason
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines() if line.strip()]
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return "\n    ".join([f"cell {number} ({cell.get('id', 'no id')}) failed: {first}", *lines[-8:]])


def run(root: Path, names: Sequence[str] = ()) -> int:
    """Execute the notebooks in order into build/run/ and print the before/after table.

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
        print("\n" + before_after_table(output / RESULT_NOTEBOOK / "result.json"))
    return 0


def _execute_and_tell(path: Path, output: Path) -> Any:
    start = time.perf_counter()
    print(f"{path.stem:<32}", end="", flush=True)
    try:
        notebook = execute(path, output)
    except NotebookFailed as error:
        print(f"failed after {time.perf_counter() - start:.0f} s")
        raise NotebookFailed(f"{path.name}, {error}\nAs far as it came: {output / path.name}") from None
    print(f"{time.perf_counter() - start:6.1f} s", flush=True)
    return notebook


def peak_memory() -> float:
    """The most memory that one finished child process held, in GB; nan on systems that do not tell."""
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9


def before_after_table(path: Path) -> str:
    """The before/after table of a result.json, in percent and percentage points.

    Raises CourseError where the file or something in it is missing.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        before, after, change = result["before"], result["after"], result["change"]
        lines = [
            f"Before and after training, on {after['problems']} held-out problems, {after['samples']} samples each",
            "(share solved, with 95 % intervals)",
            "",
            f"{'':<8}  {'before':<22}  {'after':<22}  change in points",
        ]
        for name in ("greedy", "pass@1", "pass@8"):
            shares = [f"{100 * at[name]:5.1f} % {_interval(at['interval'][name])}" for at in (before, after)]
            difference, interval = change[name]["difference"], change[name]["interval"]
            lines.append(f"{name:<8}  {shares[0]:<22}  {shares[1]:<22}  {100 * difference:+5.1f} {_interval(interval)}")
    except FileNotFoundError:
        raise CourseError(f"No before/after table: {RESULT_NOTEBOOK} has not written {path}.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CourseError(
            f"No before/after table: {path} is not as expected ({type(error).__name__} {error})."
        ) from None
    return "\n".join(lines)


def _interval(bounds: Sequence[float]) -> str:
    low, high = (100 * bound for bound in bounds)
    return f"[{low:.1f}, {high:.1f}]"


def outputs(root: Path, names: Sequence[str] = ()) -> int:
    """Execute the notebooks and write them back normalised; one that fails stays as it was. Returns the exit status."""
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
    """The picture that the README shows: the last one of the cell tagged `readme-picture`, if there is one."""
    tagged = [cell for cell in notebook.cells if "readme-picture" in tags_of(cell)]
    pictures = [
        output.data["image/png"] for cell in tagged for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    return base64.b64decode(pictures[-1]) if pictures else None


def check(root: Path, names: Sequence[str] = ()) -> int:
    """Print how large the cells are and one line for each fault of the committed notebooks. Returns the exit status."""
    paths = notebook_paths(root, names)
    found = [f"{path.relative_to(root)}: {fault}" for path in paths for fault in faults(path, root)]
    print("\n".join([sizes(paths), *(found or [f"Notebooks in order: {len(paths)}."])]))
    return 1 if found else 0


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """The command line: returns the exit status."""
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
        help="beginnings of file names, as in: run 04 (default: all notebooks); for publish, address and branch or tag",
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
