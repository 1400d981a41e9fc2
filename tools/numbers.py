"""Check that the numbers in the text are those that a run printed or a record holds: python -m tools.numbers.

A comment binds a number to its source. It stands in the same cell as the number, or anywhere in the same Markdown file:

    Of the programs, 44 % pass. <!-- 44 % = 100 * cell("train-it-8", "pass@1") -->

Before the first " = " stands the text exactly as it is printed, one or more numbers with what is around them. After it
stands a Python expression with as many values. It may use arithmetic and

- cell("id", "pass@1"): the first number after these words in the outputs of a cell; in another notebook than this one,
  cell("04:id", ...). A pattern with groups gives what the groups match: cell("id", r"(\\S+) of (\\S+) pass");
- csv("reward_model.csv", "seed == 0 and n == 1", "truth"): one or more columns, or calculations with columns, of a
  file in data/measurements/, in the rows that this query selects; several rows can be joined by .mean(), .max() etc.;
- json("qwen.json", "after", "greedy"): the value under these keys in a file in data/measurements/.

Values are rounded to the digits that the text shows. After "about", zeros at the end are not digits that it shows:
"about 540" stands for anything from 535 to 545.

`--count` says for each text how many numbers are bound, and how many could be: numbers with digits after a point, with
a per cent sign or with a unit. Of these, `cited` ones are in a sentence that links to a page of the web. Not counted
are numbers in code, formulas, headings, links, versions and sections, a reward of 1.0 or 0.0, the level of an interval,
and the minutes that a notebook takes. `--list` shows the ones that are neither bound nor cited, each with its sentence.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.runtime import project_root
from tools.hygiene import source_of

NUMBER = re.compile(r"(?<![\w.@])[+\-\u2212]?\d[\d,]*(?:\.\d+)?(?![\w@])")
COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
HIDDEN = re.compile(
    r"<!--.*?-->|```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)|^ {4}.*?$", re.DOTALL | re.MULTILINE
)
# What a reader takes for a measurement: digits after a point, per cent, or a unit.
MEASURED = re.compile(r"(?<![\w.@])\d[\d,]*(?:\.\d{1,3}\b| ?%| (?:points|seconds|minutes|s|ms|[kMG]i?B)\b)")
# What only looks like one.
NAMED = re.compile(
    r"^#+ .*$|^\*\*Time\*\*[^.]*\.|\b(?:Python|TRL|transformers|Claude) \d[\d.]*(?:(?:,| or| and|, or) \d[\d.]+)*"
    r"|\b[Ss]ections?\s\d[\d.]*|\b0[1-6]\.\d{1,2}\b|\b95 ?%(?=\s(?:bootstrap\s)?(?:interval|confidence))|\b[01]\.0\b",
    re.MULTILINE,
)
LINKED = re.compile(r"\[[^\]]*\]\((https?:)?[^)]*\)")
SENTENCE = re.compile(r"(?<=[.?!])\)? +(?=[A-Z*(\[])")
TEXTS = ("README.md", "TEACHING.md", "data/*.md", "docs/*.md", "notebooks/*.md")


def blocks(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the Markdown of the project as (place, notebook or "", text): each text file, each Markdown cell."""
    for path in (path for pattern in TEXTS for path in sorted(root.glob(pattern))):
        yield path.relative_to(root).as_posix(), "", path.read_text(encoding="utf-8")
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield f"{path.name}, {cell['id']}", path.stem, source_of(cell)


def faults_of(text: str, sources: dict[str, Callable[..., Any]]) -> Iterator[str]:
    """Yield a line for each comment whose numbers are not in the text, or are not those of its source."""
    prose = " ".join(COMMENT.sub("", text).split())
    for shown, expression in bindings(text):
        if shown not in prose:
            yield f"{shown!r} is bound, but the text does not say it"
            continue
        try:
            found = eval(expression, dict(sources))
            values = [float(value) for value in np.ravel(found)]
        except Exception as error:  # A source can fail in as many ways as Python code can.
            yield f"{shown!r}: {expression} failed with {type(error).__name__}: {error}"
            continue
        written = NUMBER.findall(shown)
        if len(written) != len(values) or not all(map(partial(agrees, is_about="about" in shown), written, values)):
            yield f"{shown!r} should be {', '.join(f'{value:.6g}' for value in values)}, by {expression}"


def bindings(text: str) -> list[tuple[str, str]]:
    """Return what each comment binds, as (text, expression); a comment without a number before " = " binds nothing."""
    pairs = [" ".join(comment.split()).partition(" = ") for comment in COMMENT.findall(text)]
    return [(shown, expression) for shown, _, expression in pairs if expression and NUMBER.search(shown)]


def agrees(written: str, value: float, is_about: bool = False) -> bool:
    """Return whether a number is the value, rounded to the digits written.

    >>> agrees("0.5", 0.4501), agrees("1,230", 1230.4), agrees("-3.0", -3.06)
    (True, True, False)
    """
    plain = written.replace(",", "").replace("\u2212", "-")
    digits = len(plain.partition(".")[2])
    if is_about and not digits:
        digits = len(plain.rstrip("0")) - len(plain)
    return abs(float(plain) - value) <= 0.5 * 10.0**-digits + 1e-9


def sources_for(root: Path, notebook: str) -> dict[str, Callable[..., Any]]:
    """Return the functions that an expression may call; `cell` looks in `notebook` unless another one is named."""
    folder = root / "data/measurements"

    def cell(name: str, pattern: str) -> Any:
        start, _, wanted = name.rpartition(":")
        [path] = (root / "notebooks").glob(f"{start or notebook}*.ipynb")
        [cell] = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["id"] == wanted]
        printed = "\n".join(map(_text_of, cell["outputs"]))
        if not re.compile(pattern).groups:
            pattern += rf"(?:\D*?)({NUMBER.pattern})"
        match = re.search(pattern, printed)
        if match is None:
            raise ValueError(f"the cell does not print {pattern!r}")
        return np.array([float(value.replace(",", "")) for value in match.groups()])

    def csv(file: str, query: str, *columns: str) -> np.ndarray:
        rows = pd.read_csv(folder / file, comment="#").query(query)
        return np.array([rows[column] if column in rows else rows.eval(column) for column in columns]).T

    def json_value(file: str, *keys: str | int) -> Any:
        value = json.loads((folder / file).read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
        return value

    return {"cell": cell, "csv": csv, "json": json_value}


def _text_of(output: dict[str, Any]) -> str:
    return "".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", ""))


def count(text: str) -> tuple[Counter[str], list[str]]:
    """Return how many numbers of a text are bound, cited or open, and the sentences with the open ones."""
    prose = COMMENT.sub("", text)
    shown = [bound for bound, _ in bindings(text)]
    for bound in sorted(shown, key=len, reverse=True):
        prose = re.sub(r"(?<![\d.,])" + r"\s+".join(map(re.escape, bound.split())), " ", prose)
    prose = LINKED.sub(lambda link: " HTTP " if link[1] else " ", NAMED.sub(" ", prose))
    prose = HIDDEN.sub(" ", prose)
    counts, open_ones = Counter(bound=sum(len(NUMBER.findall(bound)) for bound in shown)), []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-|]|\d+\. ))", prose):
        for sentence in SENTENCE.split(" ".join(paragraph.split())):
            found = len(MEASURED.findall(sentence))
            is_cited = "HTTP" in sentence
            counts["cited" if is_cited else "open"] += found
            open_ones += [sentence] * (found > 0 and not is_cited)
    return counts, open_ones


def print_counts(root: Path, show_open: bool) -> None:
    """Print for each text how many numbers are bound, cited or open, or the sentences with open ones."""
    counts: dict[str, Counter[str]] = {}
    for place, _, text in blocks(root):
        found, open_ones = count(text)
        counts.setdefault(place.partition(",")[0], Counter()).update(found)
        if show_open:
            print(*(f"{place}: {sentence}" for sentence in open_ones), sep="\n", end="\n" * bool(open_ones))
    print(f"{'numbers in the text':<40} bound  cited   open")
    for place, of_text in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{place:<40}{of_text['bound']:>6}{of_text['cited']:>7}{of_text['open']:>7}")


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Print each number that differs from its source, or the counts; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.numbers", description=__doc__.splitlines()[0])
    parser.add_argument("--count", action="store_true", help="say for each text how many numbers are bound to a source")
    parser.add_argument("--list", action="store_true", help="show the sentences with numbers that have no source")
    chosen = parser.parse_args(arguments)
    root = root or project_root()
    if chosen.count or chosen.list:
        print_counts(root, chosen.list)
        return 0
    found, bound = [], 0
    for place, notebook, text in blocks(root):
        found += [f"{place}: {fault}" for fault in faults_of(text, sources_for(root, notebook))]
        bound += sum(len(NUMBER.findall(shown)) for shown, _ in bindings(text))
    print("\n".join([*found, f"Numbers in the text: {bound} are bound to a source, and {len(found)} of them differ."]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
