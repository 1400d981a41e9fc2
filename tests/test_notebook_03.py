"""Notebook 03: every cell can be run again, in any sensible order, and what it says first comes first."""

import json
import re
from collections import Counter
from pathlib import Path

from test_notebooks import code_of, names_in
from try_exercises import source_of, tagged

PATH = Path(__file__).resolve().parent.parent / "notebooks" / "03_group_relative_advantages.ipynb"
DEFINITION = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]


def names_of_two_cells(cells):
    """Names that two cells make, and that a third one takes or one defines: "cell id: name".

    What such a name means depends on the order in which the cells run.
    """
    plain = [cell for cell in code_of(cells) if not tagged(cell, "exercise")]
    names = {cell["id"]: names_in(source_of(cell)) for cell in plain}
    imported = {name for cell in plain for name in imports_of(source_of(cell))}
    defined = {name for cell in plain for name in DEFINITION.findall(source_of(cell))}
    makers = Counter(name for made, _ in names.values() for name in made - imported)
    return [
        f"{place}: {name}"
        for place, (made, taken) in names.items()
        for name in sorted(taken - made | made & defined)
        if makers[name] > 1
    ]


def imports_of(source):
    """Names that a cell only imports, so that two cells give them the same meaning."""
    lines = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    return names_in("\n".join(lines))[0]


def test_no_name_is_used_for_two_things():
    assert names_of_two_cells(CELLS) == []


def test_a_name_that_is_used_for_two_things_is_found():
    def cell(name, source):
        return {"cell_type": "code", "id": name, "source": source, "metadata": {}}

    reused = [cell("a", "batch = 1"), cell("b", "print(batch)"), cell("c", "batch = [2]")]
    assert names_of_two_cells(reused) == ["b: batch"]
    assert names_of_two_cells(reused[:2]) == []
    functions = [cell("a", "def f(): return f"), cell("b", "f = 1\nprint(f)")]
    assert names_of_two_cells(functions) == ["a: f", "b: f"]
    # A loop variable that stays in its cell harms nobody, nor does a second import.
    assert names_of_two_cells([cell("a", "for i in x: print(i)"), cell("b", "for i in y: print(i)")]) == []
    assert names_of_two_cells([cell("a", "import os"), cell("b", "import os"), cell("c", "os.sep")]) == []


def test_the_eight_steps_come_first_and_in_order():
    headings = [line for cell in CELLS for line in source_of(cell).splitlines() if line.startswith("### Step ")]
    assert [heading.split(":")[0] for heading in headings] == [f"### Step {number}" for number in range(1, 9)]
    last = next(i for i, cell in enumerate(CELLS) if cell["id"] == "step-8-code")
    assert last < 25 and len(CELLS) <= 90


def test_the_numbers_of_the_eight_steps_are_those_of_the_profile():
    from helpers.profiles import profile_settings

    settings = profile_settings("tiny")
    source = "\n".join(source_of(cell) for cell in code_of(CELLS))
    assert (settings.num_generations, settings.max_completion_length, settings.learning_rate) == (8, 56, 3.5e-4)
    assert (settings.loss_type, settings.scale_rewards, settings.beta) == ("dr_grpo", "none", 0.0)
    assert source.count("lr=3.5e-4") >= 3 and source.count("/ 56") >= 3
