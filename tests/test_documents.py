"""The documents: the glossary is in order, CONTRIBUTING names every cell tag, docs/architecture.md every module.

The README shows a program that the model wrote, code that fits the libraries, and the minutes of each notebook.
TEACHING.md plans sections that exist, in minutes that add up and that the sections need.
"""

import ast
import inspect
import json
import re
from collections.abc import Container
from pathlib import Path

from try_exercises import names_in

from tools import hygiene

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "notebooks/glossary.md"


def test_the_glossary_is_in_order_and_each_term_has_its_anchor():
    """JupyterLab keeps a heading's capitals in its id, and GitHub does not, so an anchor repeats JupyterLab's id."""
    text = GLOSSARY.read_text(encoding="utf-8")
    terms = re.findall(r'^<a id="([^"]+)"></a>\n\n### (.+)\n\n\S', text, re.MULTILINE)
    assert len(terms) == text.count("\n### ") > 80
    assert [anchor for anchor, _ in terms] == [term.replace(" ", "-") for _, term in terms]
    # A browser encodes other letters in an address, and JupyterLab looks for them as they are encoded.
    assert all(anchor.isascii() for anchor, _ in terms)
    letters = [re.sub(r"[^a-z0-9]", "", term.lower()) for _, term in terms]
    assert letters == sorted(set(letters))


def terms_linked_to(text: str, in_glossary: bool = False) -> set[str]:
    """What the links to the glossary name after "#"."""
    return set(re.findall(r"\]\(#([^)\s]+)" if in_glossary else r"\]\([\w./]*glossary\.md#([^)\s]+)", text))


def test_each_link_to_a_term_names_its_heading():
    """Letter by letter, because JupyterLab opens the glossary at its top otherwise."""
    text = GLOSSARY.read_text(encoding="utf-8")
    headings = {heading.replace(" ", "-") for heading in re.findall(r"^### (.+)$", text, re.MULTILINE)}
    assert terms_linked_to(text, in_glossary=True) <= headings
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md")]:
        assert terms_linked_to(path.read_text(encoding="utf-8")) <= headings, path.name


def test_a_link_to_a_term_that_is_not_there_is_found():
    assert terms_linked_to("a [term](glossary.md#KL-penalty), [two](../notebooks/glossary.md#kl)") == {
        "KL-penalty",
        "kl",
    }
    assert terms_linked_to("a [term](#KL-penalty)", in_glossary=True) == {"KL-penalty"}


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


def readme_blocks() -> list[str]:
    """The README's blocks of Python: programs that the model wrote, and a script."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_script_in_the_readme_calls_what_exists_with_arguments_that_exist():
    """It is not run here, because it trains for a minute."""
    _, script = readme_blocks()
    assert len(script.splitlines()) <= 12
    names: dict[str, object] = {}
    exec("\n".join(line for line in script.splitlines() if line.startswith("from ")), names)
    nodes = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Attribute | ast.Call)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and root_name(node.func) in names]
    for node in calls:
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        inspect.signature(eval(ast.unparse(node.func), names)).bind(*node.args, **keywords)
    for node in nodes:
        if isinstance(node, ast.Attribute) and root_name(node) in names:
            eval(ast.unparse(node), names)
    assert len(calls) == 7


def root_name(node: ast.expr) -> str:
    """What stands before the first dot."""
    return ast.unparse(node).partition(".")[0]


def test_the_readme_has_the_minutes_of_each_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    in_readme = dict(re.findall(r"^\| \[.*?\]\(notebooks/(\S+)\).*?\| (\d+) to read, ", text, re.MULTILINE))
    for path in ROOT.glob("notebooks/*.ipynb"):
        title = hygiene.source_of(json.loads(path.read_text(encoding="utf-8"))["cells"][0])
        assert f" {in_readme[path.name]} minutes to read with the exercises" in title, path.name


def test_the_readme_shows_programs_that_notebook_04_printed():
    block, _ = readme_blocks()
    sentence, *programs = [line.split("  # ")[0].strip("# ") for line in block.splitlines()]
    [before, after] = programs
    cells = json.loads((ROOT / "notebooks/04_grpo_on_humaneval.ipynb").read_text(encoding="utf-8"))["cells"]
    [printed] = ["".join(cell["outputs"][0]["text"]) for cell in cells if cell["id"] == "learn-6"]
    assert f"{sentence}\nbefore (fails)\n    {before}\nafter (passes)\n    {after}\n" in printed


def test_badges_of_an_address_that_is_not_there_are_hidden():
    """`make publish` shows them. The clone line is the one place that a reader sees before that."""
    visible = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [line.strip() for line in visible.splitlines() if "OWNER/NAME" in line] in (
        [],
        ["git clone https://github.com/OWNER/NAME grpo-course"],
    )


def sections_of(number: str) -> dict[str, str]:
    """The numbered sections of a notebook, each with its text. Lines of code begin with a NUL character.

    Left out is what a reader does not read: comments, solutions, the stubs of exercises and the folded first cell.
    """
    [path] = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    texts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source, tags = hygiene.source_of(cell), hygiene.tags_of(cell)
        if cell["cell_type"] == "markdown" and "solution" not in tags:
            texts.append(re.sub(r"<!--.*?-->", "", source, flags=re.DOTALL))
        elif cell["cell_type"] == "code" and "exercise" not in tags and not source.startswith("# @title"):
            texts += [f"\0{line}" for line in source.splitlines() if line.strip()]
    before, *parts = re.split(r"^## (\d+)?", "\n".join(texts), flags=re.MULTILINE)
    # Parts without a number, such as the summary, belong to no section.
    rest = "".join(part for number, part in zip(parts[::2], parts[1::2], strict=True) if not number)
    return {"": before + rest} | {n: part for n, part in zip(parts[::2], parts[1::2], strict=True) if n}


def minutes_of(text: str, exercises: Container[str]) -> float:
    """Compute the minutes as TEACHING.md says, without those of training."""
    code = text.count("\n\0")
    words = len(re.sub("\0.*", "", text).split())
    stated = re.findall(r"^### Exercise (\d+): .*?(\d+) minutes?\)", text, re.MULTILINE)
    return words / 200 + code / 20 + sum(int(minutes) for number, minutes in stated if number in exercises)


def test_a_notebook_takes_the_minutes_that_its_title_and_the_page_for_teachers_say():
    stated = []
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        title = hygiene.source_of(json.loads(path.read_text(encoding="utf-8"))["cells"][0])
        [said] = map(int, re.findall(r"(\d+) minutes to read with the exercises", title))
        needed = sum(minutes_of(part, "123456789") for part in sections_of(path.name[:2]).values())
        assert needed <= said < needed + 5, (path.name, needed)
        stated.append(str(said))
    text = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    assert f"take {', '.join(stated[:-1])} and {stated[-1]} minutes with all exercises" in text


def test_a_plan_gives_each_section_the_minutes_that_it_needs():
    text = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d)\.(\d+)( with .+?)? \| (\d+) \|", text, re.MULTILINE)
    assert len(rows) > 40
    for notebook, section, exercises, minutes in rows:
        needed = minutes_of(sections_of(notebook)[section], re.findall(r"\d", exercises))
        assert needed <= int(minutes) < needed + 10, (notebook, section, needed)


def test_each_plan_for_a_class_adds_up():
    text = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    plans = re.findall(r"^## [^\n]*\((\d+) (?:minutes|points)\)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    rows = [re.findall(r"^\|[^|]+\| (\d+) \|", plan, re.MULTILINE) for _, plan in plans]
    sums = [(int(total), sum(map(int, row))) for (total, _), row in zip(plans, rows, strict=True)]
    assert sums == [(90, 90), (180, 180), (360, 360), (100, 100)]
    assert "Forty marks" in text
    assert sum(map(int, re.findall(r"^\d+\. \((\d)(?: marks)?\)", text, re.MULTILINE))) == 40


def test_the_sections_and_exercises_that_a_class_does_exist():
    text = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(0\d)\.(\d{1,2})\b", text))
    assert len(named) > 25
    missing = [f"{notebook}.{section}" for notebook, section in named if section not in sections_of(notebook)]
    assert not missing, missing
    for notebook, section, exercises in re.findall(r"^\| (\d\d)\.(\d+) with (.+?) \|", text, re.MULTILINE):
        for exercise in exercises.split(", "):
            assert f"### {exercise.capitalize()}:" in sections_of(notebook)[section], (notebook, section, exercise)


def test_a_plan_runs_each_section_whose_names_it_needs():
    """A plan skips sections. If its own sections use their names, it says: Run 02.2 and 02.4 without reading them."""
    text = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    lacking = []
    for title, plan in re.findall(r"^## ([^\n]*\d minutes\))\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        only_run = " ".join(re.findall(r"Run ([\d.,\s and]+)\s+without\s+reading", plan))
        run = re.findall(r"^\| (\d\d)\.(\d+)", plan, re.MULTILINE) + re.findall(r"(\d\d)\.(\d+)", only_run)
        for notebook in sorted({notebook for notebook, _ in run}):
            known, skipped = set(), set()
            for section, part in sections_of(notebook).items():
                made, taken = names_in("\n".join(re.findall("^\0(.*)", part, re.MULTILINE)))
                if section and (notebook, section) not in run:
                    skipped |= made
                    continue
                lacking += [(title, notebook, section, name) for name in taken & skipped - known - made]
                known |= made
    assert not lacking
