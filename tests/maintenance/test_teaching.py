"""tools.teaching: what a teacher hands out, on a small course made for the test."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import opening, teaching

STUB = """from helpers.exercises import ___, check


def my_pass_at_k(n, c, k):
    return ___


check("04.1", my_pass_at_k)"""
SOLUTION = """<details><summary>Solution</summary>

```python
def my_pass_at_k(n, c, k):
    return {answer}
```

The reason.

</details>"""
RIGHT = "1 - comb(n - c, k) / comb(n, k)"


def write(course: Path, answer: str = RIGHT) -> Path:
    """A notebook with one exercise. Its fourth cell may not be needed for it, and fails."""
    path = course / "notebooks" / "04_x.ipynb"
    path.parent.mkdir(exist_ok=True)
    printed = [new_output("stream", text="a committed output")]
    cells = [
        new_markdown_cell(f"# Title\n\n{opening.colab_link(path.name)}\n\nText."),
        new_code_cell(opening.BOOTSTRAP_CELL, metadata=opening.FOLDED, outputs=printed, execution_count=1),
        new_code_cell("from math import comb", metadata={"tags": ["exercise-setup"]}),
        new_code_cell("1 / 0", outputs=printed, execution_count=2),
        new_code_cell(STUB, metadata={"tags": ["exercise"]}, outputs=printed, execution_count=3),
        new_markdown_cell(
            SOLUTION.format(answer=answer), metadata={"tags": ["solution"], "wrong_answer": ["return 7"]}
        ),
    ]
    nbformat.write(new_notebook(cells=cells, metadata={"course": {"inputs": "123"}}), path)
    return path


@pytest.fixture
def course(tmp_path: Path, root: Path) -> Path:
    course = tmp_path / "a course"
    shutil.copytree(root / "helpers", course / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    write(course)
    (course / "notebooks/.ipynb_checkpoints").mkdir()
    others = ("TEACHING.md", "tests/test_exercises.py", "build/run/04.ipynb", ".venv/ready")
    for name in ("Makefile", "README.md", "CONTRIBUTING.md", *others):
        (course / name).parent.mkdir(parents=True, exist_ok=True)
        (course / name).write_text("text")
    return course


def test_the_student_version_has_no_answers_and_is_complete(course):
    committed = (course / "notebooks/04_x.ipynb").read_bytes()
    assert teaching.main(["student"], root=course) == 0
    assert (course / "notebooks/04_x.ipynb").read_bytes() == committed
    made = course / "build/student/grpo-course"
    top = ["CONTRIBUTING.md", "Makefile", "README.md", "helpers", "notebooks"]
    assert sorted(path.name for path in made.iterdir()) == top
    assert (made / "helpers/runtime.py").is_file() and [p.name for p in (made / "notebooks").iterdir()] == [
        "04_x.ipynb"
    ]
    text = (made / "notebooks/04_x.ipynb").read_text()
    assert not any(leak in text for leak in ("comb(n - c", "return 7", "a committed output", "colab", "inputs"))
    assert "___" in text and nbformat.read(made / "notebooks/04_x.ipynb", 4).cells[0].source == "# Title\n\nText."
    assert all(cell.get("execution_count") is None for cell in json.loads(text)["cells"])
    with zipfile.ZipFile(course / "build/student/grpo-course.zip") as archive:
        names = archive.namelist()
    assert "grpo-course/notebooks/04_x.ipynb" in names
    assert not any("tests" in name or "TEACHING" in name for name in names)


def test_the_student_version_does_not_say_where_solutions_are(course, root):
    """The last hint and the README name the place in the course, and in the copy they do not."""
    for name in ("README.md", "CONTRIBUTING.md"):
        shutil.copy(root / name, course)
    for name, sentence in teaching.LEFT_UNSAID:
        assert (course / name).read_text(encoding="utf-8").count(sentence) == 1
    assert teaching.main(["student"], root=course) == 0
    made = course / "build/student/grpo-course"
    hint = (made / "helpers/exercises.py").read_text(encoding="utf-8")
    assert "This is the last hint." in hint and "olution" not in hint
    assert "olutions are" not in (made / "README.md").read_text(encoding="utf-8")


def test_no_text_of_the_student_version_links_to_what_is_left_out(root):
    copied = {*teaching.FOLDERS, *teaching.FILES, *teaching.TEXTS}
    for path in [*map(root.joinpath, teaching.TEXTS), *root.glob("[dn]*/*.md"), *root.glob("notebooks/*.ipynb")]:
        name, text = str(path.relative_to(root)), path.read_text(encoding="utf-8")
        for file, sentence in teaching.LEFT_UNSAID:
            text = text.replace(sentence, "") if file == name else text
        files = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s:]+)\)", text)]
        linked = {(path.parent / file).resolve().relative_to(root.resolve()).parts[0] for file in files if file}
        assert linked <= copied, (name, linked - copied)


def test_every_exercise_is_answered_and_shows_its_verdict(course):
    assert teaching.main(["solutions"], root=course) == 0
    cells = nbformat.read(course / "build/solutions/04_x.ipynb", 4).cells
    assert RIGHT in cells[4].source and "___\n" not in cells[4].source and 'check("04.1"' in cells[4].source
    assert "✔ Exercise 1: correct." in str(cells[4].outputs)
    assert cells[3].outputs[0].text == "a committed output"  # it was not executed
    assert cells[5].source == "<details open><summary>Solution</summary>\n\nThe reason.\n\n</details>"


def test_a_solution_that_is_not_accepted_stops_with_its_name(course, capsys):
    write(course, answer="0")
    assert teaching.main(["solutions"], root=course) == 1
    assert "Exercise 04.1 does not accept its own solution." in capsys.readouterr().err


def test_the_exercises_of_the_course_have_this_form(root):
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        stubs = [cell.source for cell in cells if "exercise" in cell.metadata.get("tags", [])]
        answered = teaching.with_answers(cells)
        assert len(answered) == len(stubs) and not {cell.source for cell in answered.values()} & set(stubs)
        assert "```" not in "".join(cell.source for cell in cells if "solution" in cell.metadata.get("tags", []))
