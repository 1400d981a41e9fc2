"""Make slides from the committed notebooks, to show without a network: python -m tools.slides

No tags are needed. A slide is made of

- the title, with the first paragraph;
- each heading of a section (##), with its first paragraph;
- each paragraph that asks to **Predict**, with the one before it and a list that follows it;
- each displayed formula, with the paragraph that introduces it;
- each figure;
- each exercise (### Exercise).

The tag `slide` adds a whole cell, with its code and output. The tag `no-slide` leaves out what a cell would give.
"""

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers.runtime import output_folder
from tools.hygiene import tags_of
from tools.notebooks import notebook_paths, run_for_names
from tools.opening import COLAB_LINK
from tools.web import libraries

TEMPLATES = Path(__file__).resolve().parent
CODE = re.compile(r"^```.*?^```$|^ {4}[^\n]*$", re.MULTILINE | re.DOTALL)
LISTS = ("- ", "1. ")
RELATIVE_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]*\)")


def slides_of(cells: Sequence[Any]) -> list[Any]:
    """Return the cells of a slide show, with the metadata that nbconvert reads. Each slide has a heading."""
    from nbformat.v4 import new_markdown_cell

    made: list[Any] = []
    heading = ""
    for number, cell in enumerate(cells):
        tags = set(tags_of(cell))
        if {"no-slide", "solution"} & tags:
            parts = []
        elif "slide" in tags:
            parts = [(heading, cell.copy())]
        elif cell.cell_type == "code":
            parts = [(heading, figure) for output in cell.outputs if (figure := _figure(cell, output))]
        else:
            texts = _texts(cell.source, is_title=number == 0)
            parts = [(above or heading, new_markdown_cell(text)) for above, text in texts]
        for above, part in parts:
            own = re.match(r"(#+) ", part.source) if part.cell_type == "markdown" else None
            if not own:
                made.append(_with_type(new_markdown_cell(f"### {above}"), "subslide"))
            made.append(_with_type(part, "-" if not own else "slide" if len(own[1]) < 3 else "subslide"))
        for line in CODE.sub("", cell.source).splitlines() if cell.cell_type == "markdown" else ():
            heading = line.lstrip("# ") if re.match(r"##+ ", line) else heading
    return made


def _with_type(cell: Any, slide_type: str) -> Any:
    from nbformat import from_dict

    if cell.cell_type == "markdown":
        cell.source = RELATIVE_LINK.sub(r"\1", cell.source)
    cell.metadata = from_dict({**cell.metadata, "slideshow": {"slide_type": slide_type}})
    return cell


def _figure(cell: Any, output: Any) -> Any:
    """Return a cell that shows this output alone, if it is a figure."""
    data = output.get("data", {})
    if "<img" not in "".join(data.get("text/html", "")) and "image/png" not in data:
        return None
    figure = cell.copy()
    figure.update(outputs=[output], metadata={"tags": ["hide-input"]})
    return figure


def _texts(source: str, is_title: bool) -> Iterator[tuple[str, str]]:
    """Yield each slide that a text gives: the heading above it in this text, or "", and its Markdown."""
    source = re.sub(r"<!--.*?-->", "", COLAB_LINK.sub("", source), flags=re.DOTALL)
    parts = [part for part in re.split(r"\n{2,}", CODE.sub("", source).strip()) if part.strip()]
    above = ""
    for number, part in enumerate(parts):
        above = part.splitlines()[0].lstrip("# ") if re.match(r"##+ ", part) else above
        before = parts[number - 1] if number and not parts[number - 1].startswith(("$$", "#", "- ")) else ""
        after = parts[number + 1] if number + 1 < len(parts) else ""
        if re.match(r"### Exercise", part):
            end = next((n for n in range(number + 1, len(parts)) if parts[n].startswith("#")), len(parts))
            yield above, "\n\n".join(parts[number:end])
        elif re.match(r"##? ", part) and (is_title or part.startswith("## ")):
            text = "" if after.startswith(("#", "*", "$", "|", ">", "- ")) else after
            lists = "".join(parts[number + 2 : number + 3]) if text.endswith(":") else ""
            if not lists.startswith(LISTS):
                text, lists = _closed(text), ""
            yield above, f"{part}\n\n{text}\n\n{lists}"
        elif re.search(r"\*\*Predict", part):
            lists = after if after.startswith(LISTS) else ""
            yield above, f"{_closed(before)}\n\n{part}\n\n{lists}"
        elif part.startswith("$$"):
            yield above, f"{before}\n\n{part}"


def _closed(text: str) -> str:
    """Put a full stop for a colon at the end, if the slide leaves out what the colon announces."""
    return re.sub(":$", ".", text)


def make(root: Path, names: Sequence[str] = ()) -> int:
    """Write a slide show for each notebook, and what it needs, to build/slides/. Returns 0."""
    import nbformat
    from nbconvert.exporters import SlidesExporter
    from traitlets.config import Config

    modules, folder = libraries(root), output_folder(root) / "slides"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(modules / "reveal.js/dist", folder / "reveal.js/dist")
    (folder / "mathjax").mkdir()
    shutil.copy(modules / "mathjax/es5/tex-svg.js", folder / "mathjax")
    config = Config()
    config.SlidesExporter.extra_template_basedirs = [str(TEMPLATES)]
    config.SlidesExporter.template_name = "slides_template"
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {"hide-input"}
    for path in notebook_paths(root, names):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = slides_of(notebook.cells)
        exporter = SlidesExporter(config=config, reveal_url_prefix="reveal.js", reveal_theme="white")
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        (folder / f"{path.stem}.html").write_text(page, encoding="utf-8")
        count = sum(cell.metadata.slideshow.slide_type != "-" for cell in notebook.cells)
        print(f"{path.stem:<32}{count:>4} slides")
    print(f"Slides, to open in a browser: {folder}. Copy the whole folder, then they work without a network.")
    return 0


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_for_names("tools.slides", __doc__, make, arguments, root)


if __name__ == "__main__":
    sys.exit(main())
