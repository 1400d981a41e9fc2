"""tools.handout: what is printed. Chromium prints it in CI's browser job, which also counts the pages."""

import sys
from pathlib import Path

import pytest

from helpers.losses import LOSS_TYPES
from helpers.runtime import CourseError
from tools import handout, web

RULES = """Text | with a bar.

<!-- rules -->
| what the log shows | metric | what it means | what to try | shown in |
|---|---|---|---|---|
| flat | `reward` | nothing | more steps | [03](x.md) |

| another | table |
"""


def test_the_symptoms_are_the_rules_without_their_notebooks():
    assert handout.symptoms(RULES).splitlines() == [
        "| what the log shows | metric | what it means | what to try |",
        "| --- | --- | --- | --- |",
        "| flat | `reward` | nothing | more steps |",
    ]


@pytest.mark.parametrize("text", ["", "<!-- rules -->\nNo table.", RULES.replace("what to try", "remedy")])
def test_a_table_that_is_not_there_gets_a_sentence(text):
    with pytest.raises(CourseError, match="has no table with what the log shows, metric"):
        handout.symptoms(text)


def test_the_page_has_two_parts_and_loads_nothing_from_the_web(root: Path):
    page = handout.page_of((root / "docs/handout.md").read_text(encoding="utf-8"), RULES)
    assert page.count("<section>") == 2 and "more steps" in page and "http" not in page
    assert page.count("<table>") == 2 and 'src="mathjax/tex-svg.js"' in page
    assert "make handout" not in page  # what stands before the first page is for maintainers


def test_every_loss_type_has_its_formula(root: Path):
    text = (root / "docs/handout.md").read_text(encoding="utf-8")
    assert [name for name in LOSS_TYPES if f"`{name}`" not in text] == []


def test_every_table_row_has_as_many_cells_as_its_header(root: Path):
    lines = (root / "docs/handout.md").read_text(encoding="utf-8").splitlines()
    assert {line.count("|") for line in lines if line.startswith("|")} == {4}


def test_without_playwright_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(CourseError, match="needs playwright. Use make handout"), web.chromium():
        pass
