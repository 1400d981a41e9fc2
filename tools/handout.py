"""Print the handout, two pages of formulas and symptoms, as a PDF: python -m tools.handout

The text is docs/handout.md. The symptoms are taken from the table in docs/when_it_does_not_learn.md, so that they are
written once. A page begins after each `<!-- page -->`.
"""

import re
import shutil
import sys
from pathlib import Path

from helpers.runtime import CourseError, output_folder, project_root
from tools.web import chromium, libraries

PAGE, SYMPTOMS, RULES = "<!-- page -->", "<!-- symptoms -->", "<!-- rules -->"
TEXTS = ("handout.md", "when_it_does_not_learn.md")  # in docs/
COLUMNS = ("what the log shows", "metric", "what it means", "what to try")
STYLE = """
@page { size: A4; margin: 11mm 12mm; }
body { font: 8.6pt/1.33 "Helvetica Neue", Arial, "Liberation Sans", "DejaVu Sans", sans-serif; margin: 0; }
section { break-after: page; }
section:last-of-type { break-after: auto; }
h1 { font-size: 15pt; margin: 0 0 4pt; }
p { margin: 4pt 0; }
table { border-collapse: collapse; width: 100%; margin: 5pt 0; }
th { text-align: left; border-bottom: 1pt solid #000; }
th, td { padding: 2.6pt 5pt; vertical-align: top; }
td { border-bottom: 0.4pt solid #999; }
tr { break-inside: avoid; }
code { font: 0.92em "DejaVu Sans Mono", monospace; }
.anchor-link { display: none; }
"""


def symptoms(text: str) -> str:
    """Return the table after `<!-- rules -->`, with the columns that the handout shows.

    Raises CourseError if there is no such table or if it lacks a column.
    """
    lines = text.partition(RULES)[2].strip().splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in lines]
    rows = rows[: next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    if not rows or not set(COLUMNS) <= set(rows[0]):
        raise CourseError(f"docs/when_it_does_not_learn.md has no table with {', '.join(COLUMNS)} after {RULES}.")
    places = [rows[0].index(column) for column in COLUMNS]
    return "\n".join(f"| {' | '.join(row[place] for place in places)} |" for row in rows)


def page_of(handout: str, rules: str) -> str:
    """Return the handout as a page of HTML that needs `mathjax/tex-svg.js` next to it."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    _, *parts = handout.replace(SYMPTOMS, symptoms(rules)).split(PAGE)
    body = "\n".join(f"<section>{markdown2html_mistune(part)}</section>" for part in parts)
    math = '<script>MathJax = {tex: {inlineMath: [["$", "$"]]}};</script><script src="mathjax/tex-svg.js"></script>'
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>GRPO on two pages</title>'
        f"<style>{STYLE}</style>{math}</head><body>{body}</body></html>"
    )


def print_page(page: Path, pdf: Path) -> int:
    """Let Chromium print a page of HTML when its formulas are set. Returns the number of printed pages."""
    with chromium() as browser:
        opened = browser.new_page()
        opened.goto(page.as_uri())
        opened.evaluate("MathJax.startup.promise")
        if wrong := opened.locator("[data-mjx-error], mjx-merror").count():
            raise CourseError(f"{wrong} formulas in docs/handout.md cannot be set.")
        opened.pdf(path=pdf, prefer_css_page_size=True)
    return len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))


def main(root: Path | None = None) -> int:
    """Make the handout; returns the exit status: 1 if it does not fit on two pages."""
    root = root or project_root()
    try:
        docs, folder = root / "docs", output_folder(root) / "handout"
        (folder / "mathjax").mkdir(parents=True, exist_ok=True)
        shutil.copy(libraries(root) / "mathjax/es5/tex-svg.js", folder / "mathjax")
        texts = [(docs / name).read_text(encoding="utf-8") for name in TEXTS]
        (folder / "handout.html").write_text(page_of(*texts), encoding="utf-8")
        count = print_page(folder / "handout.html", folder / "handout.pdf")
        print(f"{count} pages: {folder / 'handout.pdf'}")
        if count != 2:
            raise CourseError("The handout should have two pages. Shorten it, or set it smaller in tools/handout.py.")
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
