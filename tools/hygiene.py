"""Make committed notebooks the same on every machine, tie their outputs to their inputs, and find faults in them.

A hash of all that the outputs depend on (code cells, imported helpers, requirements, data) is kept in the notebook's
metadata, and shows whether they are fresh. The outputs themselves differ from machine to machine.
"""

import ast
import hashlib
import json
import re
import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.requirements import Requirement

from tools.imports import MAGIC, helper_files, imported_packages, parsed
from tools.opening import ADDRESS, BOOTSTRAP_CELL, FOLDED, NEEDS, SUPPORTED, colab_link, needs_of

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LARGEST = 1_500_000  # bytes of a notebook
VOLATILE = ("ExecuteTime", "colab", "collapsed", "execution", "id", "outputId", "scrolled", "vscode")
WIDGET = "application/vnd.jupyter.widget-view+json"
RANDOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f-]{27})?")
TOKEN = re.compile(r"\b(?:(?:hf|gh[oprsu])_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[\w-]{20,})")
HOME = r"(?<![\w.])/(?:home|Users|root|content|kaggle)/\w+|[A-Z]:\\+Users\\"
MACHINE = re.compile(HOME + r"|(?<![\w.])/(?:tmp|private|opt|var/folders|usr/l\w+)/\w|\bat 0x[0-9a-f]{6,}")
IMAGE_WITHOUT_ALT = re.compile(r"<img\b(?![^>]*\balt=[\"']\s*[^\"'\s])")
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)|(?:href|src)=\"([^\"]+)\"")


def normalise(notebook: Any, root: Path) -> None:
    """Drop what changes from run to run (but no errors), give the cells names, and store the hash of the inputs."""
    import nbformat

    course = {**notebook.metadata.get("course", {}), "inputs": inputs_hash(notebook.cells, root)}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}, "course": course},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        for key in VOLATILE:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = merged_streams(cell.outputs)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    name_cells(notebook.cells)
    nbformat.validate(notebook)


def merged_streams(outputs: Sequence[Any]) -> list[Any]:
    """Join what a cell printed in pieces (how many depends on the machine's speed), and drop overwritten lines."""
    merged: list[Any] = []
    for output in outputs:
        if merged and output.output_type == "stream" and output.name == merged[-1].get("name"):
            merged[-1].text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            output.text = re.sub(r".*\r(?!\n)", "", output.text)
    return merged


def name_cells(cells: Sequence[Any]) -> None:
    """Give each cell without an id, or with a random one, an id made from the heading above it: "the-reward-2"."""
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
    """Hash all that a notebook's outputs depend on: its code, the helpers it imports, requirements.txt and data/.

    Of code only what Python runs is hashed, so new comments, docstrings or line breaks leave the hash as it is.
    """
    # Where the course is published and what a notebook needs installed do not change its outputs.
    code = [NEEDS.sub("", ADDRESS.sub("", source_of(cell))) for cell in cells if cell["cell_type"] == "code"]
    inputs = [("cell", code_tree(source, is_cell=True)) for source in code]
    for path in sorted(helper_files(code, root)):
        inputs.append((_name(path, root), code_tree(path.read_text(encoding="utf-8"))))
    data = [path for path in (root / "data").rglob("[!.]*") if path.is_file() and path.suffix != ".md"]
    for path in [root / "requirements.txt", *sorted(data)]:
        inputs.append((_name(path, root), hashlib.sha256(path.read_bytes()).hexdigest()))
    return hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def code_tree(source: str, is_cell: bool = False) -> str:
    """Return what Python makes of a piece of code, as text: equal for two texts that run alike.

    Comments, docstrings and line breaks are not in it. A notebook shows the value of a cell's last line, so a string
    there is kept. Code that is not plain Python, such as a `%%bash` cell, is returned as it is.
    """
    try:
        tree = parsed(source)
    except SyntaxError:
        return source
    if source.startswith("%%"):
        return source
    shown = tree.body[-1:] if is_cell else []
    return repr([*MAGIC.findall(source), _as_tuples(tree, shown)])


def _as_tuples(node: Any, shown: list[ast.stmt]) -> Any:
    # ast.dump would give another text in another version of Python. This is the same from 3.11 to 3.13.
    if isinstance(node, list):
        return [_as_tuples(item, shown) for item in node if item in shown or not _is_string(item)]
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return type(node).__name__, [(name, _as_tuples(value, shown)) for name, value in fields]


def _is_string(node: Any) -> bool:
    """Return whether this statement is only a string, as a docstring is: running it does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def faults(path: Path, root: Path) -> Iterator[str]:
    """Yield a line for each fault of a committed notebook. The file is read as it is and not repaired."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells, metadata = notebook["cells"], notebook["metadata"]
    except (ValueError, KeyError) as error:
        yield f"this is not a notebook ({error})"
        return
    if path.stat().st_size > LARGEST:
        yield f"{path.stat().st_size / 1e6:.1f} MB is more than {LARGEST / 1e6:.1f} MB: show fewer or smaller figures"
    if (notebook.get("nbformat"), notebook.get("nbformat_minor")) != (4, 5):
        yield "the file is not in nbformat 4.5: run `make outputs`"
    if metadata.get("kernelspec") != KERNEL or metadata.get("language_info") != {"name": "python"}:
        yield "kernelspec or language_info belongs to one machine: run `make outputs`"
    if "widgets" in metadata:
        yield "some sites refuse to show a notebook with metadata.widgets: run `make outputs`"
    if metadata.get("course", {}).get("inputs") != inputs_hash(cells, root):
        yield "the outputs are older than code, helpers, requirements or data: run `make outputs`"
    code = [cell for cell in cells if cell["cell_type"] == "code" and source_of(cell).strip()]
    counts = [cell.get("execution_count") for cell in code if "skip-execution" not in tags_of(cell)]
    if counts != list(range(1, len(counts) + 1)):
        yield "the cells were not executed from top to bottom by a fresh kernel: run `make outputs`"
    yield from _opening_faults(cells, path, root)
    ids = [cell.get("id", "") for cell in cells]
    for number, cell in enumerate(cells, 1):
        where = f"cell {number} ({cell.get('id', 'no id')})"
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", ids[number - 1]) or ids.count(ids[number - 1]) > 1:
            yield f"{where}: the id is missing, malformed or used twice"
        yield from (f"{where}: {fault}" for fault in _cell_faults(cell, path, root))


def _opening_faults(cells: Sequence[Any], path: Path, root: Path) -> Iterator[str]:
    title, first = (source_of(cell) for cell in [*cells, {"source": ""}, {"source": ""}][:2])
    remedy = "run `python -m tools.notebooks bootstrap`"
    if not title.startswith("# ") or colab_link(path.name) not in title:
        yield f"cell 1 lacks the title or this notebook's link to Colab: {remedy}"
    if NEEDS.sub("NEEDS = []", first) != BOOTSTRAP_CELL:
        yield f"cell 2 is not the bootstrap cell: {remedy}"
        return
    if not FOLDED.items() <= cells[1]["metadata"].items():
        yield f"cell 2 is not folded: {remedy}"
    needs = set(needs_of(first))
    if unknown := needs - set(SUPPORTED):
        yield f"NEEDS names {', '.join(sorted(unknown))}, but SUPPORTED does not: {remedy}"
    code = [source_of(cell) for cell in cells if cell["cell_type"] == "code"]
    imported = {name for source in code for name in imported_packages(source)}
    for helper in helper_files(code, root):
        imported |= imported_packages(helper.read_text(encoding="utf-8"), when_loaded=True)
    known = {Requirement(package).name for package in SUPPORTED}
    if missing := imported & known - {Requirement(need).name for need in needs}:
        yield f"NEEDS leaves out {', '.join(sorted(missing))}, which the notebook or its helpers import"


def _cell_faults(cell: dict[str, Any], path: Path, root: Path) -> Iterator[str]:
    source = source_of(cell)
    if TOKEN.search(source):
        yield "the source contains an access token"
    if leak := re.search(HOME, source):
        yield f"the source contains a path of one machine: {leak[0]}"
    if cell["cell_type"] == "markdown":
        if re.search(r"!\[\s*\]\(", source) or IMAGE_WITHOUT_ALT.search(source):
            yield "an image has no alt text"
        yield from (f"a link leads nowhere: {target}" for target in broken_links(source, path))
    for output in cell.get("outputs", []):
        yield from _output_faults(output, root, may_fail="raises-exception" in tags_of(cell))


def _output_faults(output: dict[str, Any], root: Path, may_fail: bool) -> Iterator[str]:
    if output["output_type"] == "error" and not may_fail:
        yield f"the outputs contain an error: {output['ename']}: {output['evalue']}"
    if output.get("name") == "stderr":
        yield f"there is text on stderr: {''.join(output['text']).strip().splitlines()[-1][:100]}"
    data = output.get("data", {})
    # Encoded images are left out, because any short pattern occurs in them by chance.
    texts = [output.get("text", ""), *(text for kind, text in data.items() if not kind.startswith("image/"))]
    shown = "\n".join(json.dumps(text) if isinstance(text, dict) else "".join(text) for text in texts)
    shown = re.sub(r"data:image/[^\"']+", "", shown)
    here = re.search(re.escape(str(root.resolve())), shown)
    if leak := TOKEN.search(shown) or MACHINE.search(shown) or here:
        yield f"the outputs contain a path, address or token of one machine: {leak.group()}"
    alts = [output.get("metadata", {}).get(kind, {}).get("alt", "") for kind in data if kind.startswith("image/")]
    if not all(alt.strip() for alt in alts) or IMAGE_WITHOUT_ALT.search(shown):
        yield "a figure has no alt text: show it through helpers.figures"


def broken_links(text: str, path: Path) -> list[str]:
    """Return the relative links of the Markdown in `path` that lead to no file, or to no heading or anchor in it.

    `path` is a notebook or a Markdown file. Code and formulas contain no links.
    """
    prose = re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", text, flags=re.DOTALL)
    targets = ["".join(found) for found in LINK.findall(prose)]
    return [target for target in targets if not re.match(r"[a-z]+:", target) and not _leads_somewhere(target, path)]


def _leads_somewhere(target: str, path: Path) -> bool:
    file, _, anchor = unquote(target).partition("#")
    there = path.parent / file if file else path
    return there.exists() and (not anchor or anchor in anchors(there, in_jupyter=path.parent.name == "notebooks"))


def anchors(path: Path, in_jupyter: bool) -> set[str]:
    """Return what a link may name after "#" in a notebook or Markdown file: ids written in HTML, and headings.

    JupyterLab keeps a heading's capitals and punctuation, GitHub does not, so a link to a heading works in one of them.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text or '{"cells": []}')["cells"]
        text = "\n\n".join(source_of(cell) for cell in cells if cell["cell_type"] == "markdown")
    headings = [heading.strip() for heading in re.findall(r"^#{1,6} +(.+)$", text, re.MULTILINE)]
    if in_jupyter:
        names = {re.sub(r"[`*]", "", heading).replace(" ", "-") for heading in headings}
    else:
        names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return names | set(re.findall(r"<\w+ [^>]*\bid=\"([^\"]+)\"", text))


def sizes(paths: Sequence[Path]) -> str:
    """Return a table of the notebooks' sizes: cells, lines per code cell, the widest line of code, kB of the file."""
    table = [f"{'':<34} cells  code  median lines  p90  widest line    kB"]
    for path in paths:
        with suppress(ValueError, KeyError):  # `faults` reports a file that is not a notebook
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            code = [source_of(cell).splitlines() for cell in cells if cell["cell_type"] == "code"]
            lines = sorted(map(len, code)) or [0]
            widest = max((len(line) for source in code for line in source), default=0)
            table.append(
                f"{path.stem:<34} {len(cells):>5} {len(code):>5} {statistics.median(lines):>13g} "
                f"{lines[int(0.9 * (len(lines) - 1))]:>4} {widest:>12} {path.stat().st_size / 1000:>5.0f}"
            )
    return "\n".join(table)


def source_of(cell: dict[str, Any]) -> str:
    """Return a cell's source, which a file holds as one string or as a list of lines."""
    return "".join(cell["source"])


def tags_of(cell: dict[str, Any]) -> list[str]:
    """Return a cell's tags."""
    return cell.get("metadata", {}).get("tags", [])
