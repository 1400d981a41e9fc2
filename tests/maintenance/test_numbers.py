"""tools.numbers: a number in the text is the one that its cell printed or its file holds, and a wrong one is found."""

import json

import pytest

from tools import numbers

CSV = "# a comment\nmethod,seed,truth after\na,0,0.4449\na,1,0.5\nb,0,1230.4\n"


@pytest.fixture
def course(tmp_path):
    """A course with a text, a notebook and records."""
    (tmp_path / "data/measurements").mkdir(parents=True)
    (tmp_path / "data/measurements/m.csv").write_text(CSV)
    (tmp_path / "data/measurements/r.json").write_text(json.dumps({"after": {"pass@1": [0.25, 0.5]}}))
    (tmp_path / "notebooks").mkdir()
    output = {"output_type": "stream", "name": "stdout", "text": ["pass@1 at n=4: 44 %\n", "3 of 1,764 pass, -0.5\n"]}
    table = {"output_type": "display_data", "data": {"text/plain": ["greedy  0.907  0.868"]}}
    code = {"cell_type": "code", "id": "train-1", "source": [], "outputs": [output, table]}
    for name in ("01_first", "02_second"):
        cells = [{"cell_type": "markdown", "id": "text-1", "source": ["It says 44 %.\n"]}]
        notebook = {"cells": [*cells, code] if name == "01_first" else cells}
        (tmp_path / f"notebooks/{name}.ipynb").write_text(json.dumps(notebook))
    return tmp_path


def faults(course, text, notebook="01_first"):
    return list(numbers.faults_of(text, numbers.sources_for(course, notebook)))


RIGHT = {
    "csv": """44 % = 100 * csv("m.csv", "method == 'a' and seed == 0", "truth after")""",
    "mean of rows": """0.47 = csv("m.csv", "method == 'a'", "truth after").mean()""",
    "several columns": """seed 1: 0.50 = csv("m.csv", "seed == 1", "seed", "truth after")""",
    "several rows": """0.4 and 0.5 = csv("m.csv", "method == 'a'", "truth after")""",
    "difference of columns": """-0.500 = csv("m.csv", "seed == 1", "`truth after` - seed")""",
    "thousands": """1,230 = csv("m.csv", "method == 'b'", "truth after")""",
    "about": """about 1,200 = csv("m.csv", "method == 'b'", "truth after")""",
    "json": """0.3 to 0.5 = (json("r.json", "after", "pass@1", 0), json("r.json", "after", "pass@1", 1))""",
    "cell": """44 % = cell("train-1", "at n=4")""",
    "cell, groups": """3 of 1,764 = cell("train-1", r"(\\d+) of (\\S+) pass")""",
    "cell, negative": """-0.5 = cell("train-1", "pass,")""",
    "cell, table": """91 % = 100 * cell("train-1", "greedy")""",
    "cell, other notebook": """44 % = cell("01:train-1", "at n=4")""",
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_number_that_agrees_with_its_source_is_no_fault(name, course):
    shown = RIGHT[name].partition(" = ")[0]
    assert faults(course, f"Here it is:\n{shown}. <!-- {RIGHT[name]} -->", "02_" if "other" in name else "01_") == []


WRONG = {
    """45 % = cell("train-1", "at n=4")""": "'45 %' should be 44, by cell",
    """0.48 = csv("m.csv", "method == 'a'", "truth after").mean()""": "should be 0.47245",
    """about 1,300 = csv("m.csv", "method == 'b'", "truth after")""": "should be 1230.4",
    """1,200 = csv("m.csv", "method == 'b'", "truth after")""": "should be 1230.4",
    """-44 % = cell("train-1", "at n=4")""": "should be 44",
    """0.4 = csv("m.csv", "method == 'a'", "truth after")""": "should be 0.4449, 0.5",
    """3 to 4 = cell("train-1", r"(\\d+) of")""": "should be 3",
    """44 % = cell("train-2", "at n=4")""": "failed with ValueError",
    """44 % = cell("train-1", "no such words")""": "does not print 'no such words",
    """44 % = csv("m.csv", "seed == 0", "truth")""": "failed with",
    """44 % = json("r.json", "before")""": "failed with KeyError: 'before'",
}


@pytest.mark.parametrize("binding", WRONG)
def test_a_number_that_differs_from_its_source_is_found(binding, course):
    [fault] = faults(course, f"{binding.partition(' = ')[0]} <!-- {binding} -->")
    assert WRONG[binding] in fault


def test_a_bound_number_must_be_in_the_text(course):
    text = "There were 45 % of them.\n<!-- 44 % = cell('train-1', 'at n=4') -->"
    assert faults(course, text) == ["'44 %' is bound, but the text does not say it"]


def test_text_and_expression_may_be_broken_into_lines_and_other_comments_bind_nothing(course):
    text = "It rises from 25 %\nto 50 %.\n<!-- from 25 % to\n  50 % = (25,\n  50) -->\n<!-- TODO -->\n<!-- a = b -->"
    assert faults(course, text) == []
    assert len(numbers.bindings(text)) == 1


def test_the_command_names_the_place_and_fails(course, capsys):
    (course / "README.md").write_text("We saw 44 %. <!-- 44 % = 44 -->")
    assert numbers.main([], course) == 0
    assert capsys.readouterr().out == "Numbers in the text: 1 are bound to a source, and 0 of them differ.\n"
    path = course / "notebooks/01_first.ipynb"
    path.write_text(path.read_text().replace("It says 44 %.", "It says 44 %. <!-- 44 % = 45 -->"))
    assert numbers.main([], course) == 1
    assert "01_first.ipynb, text-1: '44 %' should be 45, by 45" in capsys.readouterr().out


COUNTED = {
    "open": ("It takes 12 MB, 0.25 of all and 7 %.", (0, 0, 3)),
    "whole numbers": ("In 3 of 8 lines from 2024.", (0, 0, 0)),
    "bound, said twice and broken": ("44 %\nand 7 %, 44 % and 7 %. <!-- 44 % and 7 % = 1 -->", (2, 0, 0)),
    "bound, at the end of another": ("4 % of 44 %. <!-- 4 % = 1 -->", (1, 0, 1)),
    "cited": ("They saw 7 % ([Chen et al. 2021, 2.5](https://a.b)). We see 0.5.", (0, 1, 1)),
    "a link to a file cites nothing": ("We see 7 % in [04.2](04.ipynb).", (0, 0, 1)),
    "lines of a list": ("- [A](https://a.b) saw 7 %\n- we see 0.5", (0, 1, 1)),
    "code and formulas": ("`0.5`, $1.5$ and\n\n    x = 2.5\n\n```\n3.5\n```", (0, 0, 0)),
    "headings": ("## 1.5 of it in 3 minutes", (0, 0, 0)),
    "names": ("TRL 1.16, Python 3.11 or 3.13, section 4.1.2, Sections 2.1 and 04.2 but 0.42", (0, 0, 1)),
    "levels and rewards": ("The 95% interval, a 95 %\nbootstrap interval, a reward of 1.0 or 0.0", (0, 0, 0)),
    "minutes of a notebook": ("**Time** about 45 minutes. **Needs** 12 MB.", (0, 0, 1)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_what_counts_as_a_number_of_the_text(name):
    text, (bound, cited, still_open) = COUNTED[name]
    counts, sentences = numbers.count(text)
    assert (counts["bound"], counts["cited"], counts["open"]) == (bound, cited, still_open)
    assert bool(sentences) == bool(still_open)


def test_the_counts_of_each_text_and_of_all_are_printed(course, capsys):
    (course / "README.md").write_text("We saw 44 %. <!-- 44 % = 44 --> And 12 MB.")
    assert numbers.main(["--count"], course) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["README.md", "1", "0", "1"] in rows and ["all", "1", "0", "3"] in rows
    assert numbers.main(["--list"], course) == 0
    assert "README.md: And 12 MB.\n01_first.ipynb, text-1: It says 44 %.\n" in capsys.readouterr().out


def test_the_numbers_of_this_course_agree_with_their_sources(root):
    assert numbers.main([], root) == 0
