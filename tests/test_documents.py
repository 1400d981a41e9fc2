"""The documents: links lead somewhere, the glossary is in order, and CONTRIBUTING names every cell tag."""

import json
import re
from pathlib import Path

import pytest

from tools import hygiene

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.md")])
GLOSSARY = ROOT / "notebooks/glossary.md"

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def anchors_of(text: str) -> set[str]:
    """Return what a link into this Markdown text can name: explicit ids, and headings as GitHub makes ids of them."""
    headings = re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


@each_document
def test_relative_links_lead_to_a_file(path):
    assert hygiene.broken_links(path.read_text(encoding="utf-8"), path.parent) == []


@each_document
def test_links_with_an_anchor_lead_to_a_heading(path):
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([\w./]*)#([\w-]+)\)", prose):
        file = path.parent / target if target else path
        assert anchor in anchors_of(file.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_the_glossary_is_in_order_and_each_term_has_an_anchor():
    """JupyterLab and GitHub make different ids of a heading, so each term has one of its own above it."""
    text = GLOSSARY.read_text(encoding="utf-8")
    terms = re.findall(r'^<a id="([a-z0-9-]+)"></a>\n\n### (.+)\n\n\S', text, re.MULTILINE)
    assert len(terms) == text.count("\n### ") > 80
    assert len({anchor for anchor, _ in terms}) == len(terms)
    letters = [re.sub(r"[^a-z0-9]", "", term.lower()) for _, term in terms]
    assert letters == sorted(letters)


def test_contributing_explains_every_tag_that_the_notebooks_use():
    explained = set(
        re.findall(r"^\| `([\w-]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    used = {
        tag
        for path in ROOT.glob("notebooks/*.ipynb")
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        for tag in hygiene.tags_of(cell)
    }
    assert used <= explained


def test_the_modules_that_the_architecture_names_exist():
    tree = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("```text\nhelpers/\n")[1].split("```")[0]
    named = re.findall(r"^    ([a-z_]+(?:\.py|/))", tree.split("\ntools/")[0], re.MULTILINE)
    assert len(named) > 20
    there = {path.name + "/" * path.is_dir() for path in (ROOT / "helpers").iterdir()} - {"__init__.py", "__pycache__/"}
    assert set(named) == there
