"""The documents: the glossary is in order, CONTRIBUTING names every cell tag, docs/architecture.md every module."""

import json
import re
from pathlib import Path

from tools import hygiene

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "notebooks/glossary.md"


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
