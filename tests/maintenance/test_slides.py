"""tools.slides: which cells become slides, and that a slide show loads nothing from the web."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.runtime import CourseError
from tools import slides, web


def figure(alt: str) -> nbformat.NotebookNode:
    return new_output("display_data", data={"text/html": f'<figure><img src="data:," alt="{alt}"></figure>'})


def shown(*cells: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """What kind of slide each cell is, and its source."""
    return [(cell.metadata.slideshow.slide_type, cell.source.strip()) for cell in slides.slides_of(cells)]


TITLE = new_markdown_cell("# 01 Title\n\nWhat it is about.\n\nMore.")


def test_title_and_sections_are_slides_with_their_first_paragraph():
    section = new_markdown_cell("## 1 One\n\nFirst, see [02](02_x.ipynb) and [a paper](https://x.org).\n\nSecond.")
    bare = new_markdown_cell("## 2 Two\n\n### Sub\n\nText.")
    assert shown(TITLE, section, bare) == [
        ("slide", "# 01 Title\n\nWhat it is about."),
        ("slide", "## 1 One\n\nFirst, see 02 and [a paper](https://x.org)."),
        ("slide", "## 2 Two"),
    ]


def test_questions_formulas_and_exercises_are_slides_under_their_heading():
    text = (
        "### Sub\n\nBefore.\n\n**Predict** what comes:\n\n- this\n\n- that\n\nAs a formula:\n\n$$x$$\n\n<!-- 1 = 2 -->"
    )
    exercise = "### Exercise 1: try (easy, 3 minutes)\n\nDo it.\n\nReally.\n\n### Other\n\nText."
    heading = ("subslide", "### Sub")
    assert shown(TITLE, new_markdown_cell(text), new_markdown_cell(exercise))[1:] == [
        heading,
        ("-", "Before.\n\n**Predict** what comes:\n\n- this"),
        heading,
        ("-", "As a formula:\n\n$$x$$"),
        ("subslide", "### Exercise 1: try (easy, 3 minutes)\n\nDo it.\n\nReally."),
    ]


def test_a_colon_keeps_its_list_and_never_ends_a_slide():
    steps = new_markdown_cell("## 1 One\n\nThe steps:\n\n1. Do.\n2. Look.")
    cell = new_markdown_cell("## 2 Two\n\nThe next cell says:\n\n    python -m x\n\n**Predict** it.")
    assert shown(TITLE, steps, cell)[1:] == [
        ("slide", "## 1 One\n\nThe steps:\n\n1. Do.\n2. Look."),
        ("slide", "## 2 Two\n\nThe next cell says."),
        ("subslide", "### 2 Two"),
        ("-", "The next cell says.\n\n**Predict** it."),
    ]


def test_figures_are_shown_without_code_and_other_outputs_are_not():
    cell = new_code_cell("draw()", outputs=[new_output("stream", text="a"), figure("one"), figure("two")])
    made = slides.slides_of([TITLE, new_markdown_cell("## 1 One"), cell])[2:]
    assert [cell.source for cell in made[::2]] == ["### 1 One"] * 2
    assert [cell.outputs for cell in made[1::2]] == [[figure("one")], [figure("two")]]
    assert all(cell.metadata.tags == ["hide-input"] for cell in made[1::2])


@pytest.mark.parametrize(("tag", "count"), [("slide", 3), ("no-slide", 1), ("solution", 1)])
def test_tags_add_and_remove(tag, count):
    cell = new_code_cell("print(1)", outputs=[figure("one")], metadata={"tags": [tag]})
    made = slides.slides_of([TITLE, cell])
    assert len(made) == count and (count == 1 or "hide-input" not in made[-1].metadata.tags)


def test_every_notebook_gives_a_slide_for_each_of_its_sections(root):
    for path in (root / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, 4).cells
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        made = [text for kind, text in shown(*cells) if kind == "slide"]
        assert len(made) == 1 + len(re.findall(r"^## ", prose, re.MULTILINE))
        assert not any("<!--" in text or "Open in Colab" in text for text in made)


def test_a_slide_show_loads_nothing_from_the_web(tmp_path: Path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    cell = new_code_cell("secret_code()", outputs=[figure("a curve")])
    nbformat.write(new_notebook(cells=[TITLE, cell]), tmp_path / "notebooks/01_x.ipynb")
    for name in ("reveal.js/dist/reveal.js", "mathjax/es5/tex-svg.js"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(slides, "libraries", lambda root: tmp_path)
    assert slides.main([], root=tmp_path) == 0
    page = (tmp_path / "build/slides/01_x.html").read_text()
    assert 'alt="a curve"' in page and "secret_code" not in page
    loaded = re.findall(r'<(?:script|link)\b[^>]*\b(?:src|href)="([^"]*)"', page)
    assert {"reveal.js/dist/reveal.js", "mathjax/tex-svg.js"} <= set(loaded)
    assert not any(address.startswith("http") for address in loaded) and "import mermaid" not in page
    here = tmp_path / "build/slides"
    assert (here / "reveal.js/dist/reveal.js").is_file() and (here / "mathjax/tex-svg.js").is_file()


def test_without_npm_or_network_there_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(web.shutil, "which", lambda name: None)
    assert slides.main([], root=tmp_path) == 1
    assert "need npm, a part of Node.js" in capsys.readouterr().err
    monkeypatch.setattr(web.shutil, "which", lambda name: "npm")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    with pytest.raises(CourseError, match="This needs a network once"):
        web.libraries(tmp_path)
