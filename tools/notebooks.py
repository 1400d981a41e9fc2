"""Run the notebooks, refresh their committed outputs, check those: python -m tools.notebooks run|outputs|check.

Outputs belong to their inputs through a hash of what they depend on (code cells, imported helpers, requirements, data),
kept in the notebook's metadata: a hash of outputs would differ from machine to machine.
"""

import argparse
import ast
import base64
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers.runtime import CourseError, output_folder, project_root

BOOTSTRAP_CELL = """\
# Run this cell first: it finds the course's files and checks your packages.
NEEDS = []

import os
import sys
from pathlib import Path

here = Path.cwd()
places = [here, *here.parents]
roots = [path for path in places if (path / "helpers/runtime.py").exists()]
if not roots:
    raise FileNotFoundError(f"The course's files are not above {here}")
sys.path.insert(0, str(roots[0]))
os.chdir(roots[0] / "notebooks")

from helpers.runtime import ready

ready(NEEDS)"""
"""The first code cell of every notebook; only what stands in NEEDS differs."""

RESULT_NOTEBOOK = "04_grpo_on_humaneval"
README_PICTURE = "docs/learning_curve.png"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
CELL_SECONDS = 900
LARGEST = 1_000_000  # bytes of a notebook
VOLATILE = ("ExecuteTime", "colab", "collapsed", "execution", "id", "outputId", "scrolled", "vscode")
WIDGET = "application/vnd.jupyter.widget-view+json"
RANDOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f-]{27})?")
TOKEN = re.compile(r"\b(?:hf_|sk-|ghp_)[A-Za-z0-9]{20,}")
MACHINE = re.compile(r"/(?:home|Users)/\w+|/(?:root|tmp|private|var/folders)/\w|[A-Z]:\\+Users\\|\bat 0x[0-9a-f]{6,}")


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
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

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
        timeout=CELL_SECONDS,
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
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
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
    """Print one line for each fault of the committed notebooks. Returns the exit status."""
    paths = notebook_paths(root, names)
    found = [f"{path.relative_to(root)}: {fault}" for path in paths for fault in faults(path, root)]
    print("\n".join(found) or f"Notebooks in order: {len(paths)}.")
    return 1 if found else 0


def normalise(notebook: Any, root: Path) -> None:
    """Drop what changes from run to run (not errors or stderr), name the cells, store the hash of the inputs."""
    import nbformat

    course = {**notebook.metadata.get("course", {}), "inputs": inputs_hash(notebook.cells, root)}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}, "course": course},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        for key in VOLATILE:
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    name_cells(notebook.cells)
    nbformat.validate(notebook)


def name_cells(cells: Sequence[Any]) -> None:
    """Give each cell that has none, or a random one, an id made from the heading above it: "the-reward-2"."""
    heading = "start"
    used = {cell["id"] for cell in cells if "id" in cell}
    for cell in cells:
        title = re.search(r"^#+ +(.+)$", cell["source"], re.MULTILINE) if cell["cell_type"] == "markdown" else None
        if title:
            heading = re.sub(r"[^a-z0-9]+", "-", title[1].lower()).strip("-")[:40] or "cell"
        if not cell.get("id") or RANDOM_ID.fullmatch(cell["id"]):
            cell["id"] = next(name for n in range(1, 10_000) if (name := f"{heading}-{n}") not in used)
            used.add(cell["id"])


def inputs_hash(cells: Sequence[Any], root: Path) -> str:
    """A hash of what a notebook's outputs depend on; text outside code cells is not part of it."""
    code = [source_of(cell) for cell in cells if cell["cell_type"] == "code"]
    data = [path for path in (root / "data").rglob("[!.]*") if path.is_file() and path.suffix != ".md"]
    digest = hashlib.sha256("\0".join(code).encode())
    for path in sorted([root / "requirements.txt", *helper_files(code, root), *data]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.exists() else b"")
    return digest.hexdigest()[:16]


def helper_files(code: Sequence[str], root: Path) -> set[Path]:
    """The files of helpers/ that the code imports, directly or through others; a package counts as a whole."""
    waiting, files = list(code), set()
    while waiting:
        for name in imported_helpers(waiting.pop()):
            module, package = root / "helpers" / f"{name}.py", root / "helpers" / name
            new = {module} if module.is_file() else set(package.rglob("*.py"))
            waiting += [path.read_text(encoding="utf-8") for path in new - files]
            files |= new
    return files


def imported_helpers(source: str) -> set[str]:
    """Names of the modules and packages of helpers/ that a piece of code imports or runs with `-m`."""
    names = set(re.findall(r"-m[\"', ]+helpers\.(\w+)", source))
    without_magics = re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE)
    with suppress(SyntaxError):
        for node in ast.walk(ast.parse(without_magics)):
            dotted = []
            if isinstance(node, ast.Import):
                dotted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                # A relative import stands in helpers/ itself, or in a package there, which counts as a whole anyway.
                start = ["helpers"] * bool(node.level) + [node.module] * bool(node.module)
                dotted = [".".join([*start, alias.name]) for alias in node.names]
            names |= {name.split(".")[1] for name in dotted if name.startswith("helpers.")}
    return names


def faults(path: Path, root: Path) -> Iterator[str]:
    """What is wrong with a committed notebook, a line each; reads the file as it is, without repairing it."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells, metadata = notebook["cells"], notebook["metadata"]
    except (ValueError, KeyError) as error:
        yield f"not a notebook ({error})"
        return
    if path.stat().st_size > LARGEST:
        yield f"{path.stat().st_size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f} MB: fewer or smaller figures"
    if (notebook.get("nbformat"), notebook.get("nbformat_minor")) != (4, 5):
        yield "not in nbformat 4.5: run `make outputs`"
    if metadata.get("kernelspec") != KERNEL or metadata.get("language_info") != {"name": "python"}:
        yield "kernelspec or language_info of one machine: run `make outputs`"
    if "widgets" in metadata:
        yield "metadata.widgets, with which some sites refuse to show a notebook: run `make outputs`"
    if metadata.get("course", {}).get("inputs") != inputs_hash(cells, root):
        yield "outputs are older than code, helpers, requirements or data: run `make outputs`"
    code = [cell for cell in cells if cell["cell_type"] == "code" and source_of(cell).strip()]
    counts = [cell.get("execution_count") for cell in code if "skip-execution" not in tags_of(cell)]
    if counts != list(range(1, len(counts) + 1)):
        yield "not executed from top to bottom by a fresh kernel: run `make outputs`"
    ids = [cell.get("id", "") for cell in cells]
    for number, cell in enumerate(cells, 1):
        where = f"cell {number} ({cell.get('id', 'no id')})"
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", ids[number - 1]) or ids.count(ids[number - 1]) > 1:
            yield f"{where}: an id that is missing, malformed or there twice"
        yield from (f"{where}: {fault}" for fault in _cell_faults(cell))


def _cell_faults(cell: dict[str, Any]) -> Iterator[str]:
    source = source_of(cell)
    if TOKEN.search(source):
        yield "an access token in the source"
    if cell["cell_type"] == "markdown" and re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"])", source):
        yield "an image without alt text"
    for output in cell.get("outputs", []):
        if output["output_type"] == "error" and "raises-exception" not in tags_of(cell):
            yield f"an error in the outputs: {output['ename']}: {output['evalue']}"
        if output.get("name") == "stderr":
            yield f"text on stderr: {''.join(output['text']).strip().splitlines()[-1][:100]}"
        data = output.get("data", {})
        # Encoded images are left out: any short pattern comes up in them by chance.
        texts = [output.get("text", ""), *(text for kind, text in data.items() if not kind.startswith("image/"))]
        shown = json.dumps(texts, ensure_ascii=False)
        if leak := TOKEN.search(shown) or MACHINE.search(shown):
            yield f"a path, address or token of one machine in the outputs: {leak.group()}"
        for kind in data:
            if kind.startswith("image/") and not output.get("metadata", {}).get(kind, {}).get("alt", "").strip():
                yield "a figure without alt text: show it through helpers.figures"


def source_of(cell: dict[str, Any]) -> str:
    """A cell's source; files hold it as one string or as a list of lines."""
    return "".join(cell["source"])


def tags_of(cell: dict[str, Any]) -> list[str]:
    """A cell's tags."""
    return cell.get("metadata", {}).get("tags", [])


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """The command line: returns the exit status."""
    commands = {"run": run, "outputs": outputs, "check": check}
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=commands)
    parser.add_argument("names", nargs="*", help="beginnings of file names, as in: run 04 (default: all notebooks)")
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
