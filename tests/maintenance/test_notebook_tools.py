"""tools.notebooks: run, outputs and check, on small courses made for the test."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.runtime import CourseError
from tools import hygiene, imports, notebooks, opening

FOUR = notebooks.RESULT_NOTEBOOK
PART = {"greedy": 0.25, "pass@1": 0.3, "pass@8": 0.9, "problems": 164, "samples": 8}
PART["interval"] = {name: [0.2, 0.95] for name in ("greedy", "pass@1", "pass@8")}
CHANGE = {name: {"difference": -0.125, "interval": [-0.2, 0.05]} for name in ("greedy", "pass@1", "pass@8")}
RESULT = {"before": PART, "after": {**PART, "greedy": 1.0}, "change": CHANGE}


@pytest.fixture
def course(tmp_path: Path, root: Path) -> Path:
    """A course without notebooks, in a folder whose name holds a space."""
    course = tmp_path / "a course"
    for folder in ("helpers", "notebooks", "data"):
        (course / folder).mkdir(parents=True)
    for name in ("__init__.py", "runtime.py", "exercises.py"):
        shutil.copy(root / "helpers" / name, course / "helpers" / name)
    shutil.copytree(root / "helpers" / "checks", course / "helpers" / "checks")
    shutil.copy(root / "requirements.txt", course)
    return course


def write(course: Path, name: str, *sources: str) -> Path:
    """A notebook of a title, the bootstrap cell and code cells with these sources."""
    path = course / "notebooks" / f"{name}.ipynb"
    cells = [new_markdown_cell(f"# {name}\n\n{opening.badge(path.name)}"), new_code_cell(opening.BOOTSTRAP_CELL)]
    nbformat.write(new_notebook(cells=[*cells, *map(new_code_cell, sources)]), path)
    return path


def saving(result: dict) -> str:
    """Code of a cell that leaves a result as notebook 04 does."""
    return (
        "import json\nfrom helpers.runtime import output_folder\n"
        f"folder = output_folder() / {FOUR!r}\nfolder.mkdir()\n"
        f"_ = (folder / 'result.json').write_text(json.dumps({result!r}))"
    )


# --- run ---


def test_run_executes_in_order_and_ends_with_the_table(course, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")  # must not reach a kernel: open exercises would stop the run
    gap = "from helpers.exercises import ___, check\nanswer = ___\ncheck('01.1', answer)"
    # IPython keeps its third last output in ___; three outputs later the gap must still be the gap.
    first = write(course, "01_first", "import os; assert os.getcwd().endswith('notebooks')", gap, "1", "2", "3", gap)
    four = write(course, FOUR, "import os; assert os.environ['MPLBACKEND'] != 'Agg'", saving(RESULT))
    committed = [path.read_bytes() for path in (first, four)]
    (course / "build" / FOUR).mkdir(parents=True)
    (course / "build" / FOUR / "mine.txt").write_text("a reader's own result")

    for _ in range(2):  # a second run replaces what the first one left
        assert notebooks.main(["run"], root=course) == 0
    said = capsys.readouterr().out
    assert said.index("01_first ") < said.index(f"{FOUR} ") < said.index("Peak memory") < said.index("Before and after")
    assert "on 164 held-out problems, 8 samples each" in said
    assert "greedy     25.0 % [20.0, 95.0]    100.0 % [20.0, 95.0]    -12.5 [-20.0, 5.0]" in said
    assert [path.read_bytes() for path in (first, four)] == committed
    executed = nbformat.read(course / "build" / "run" / "01_first.ipynb", 4)
    assert [cell.execution_count for cell in executed.cells[1:]] == [1, 2, 3, 4, 5, 6, 7]
    assert "Exercise 1: not answered yet" in executed.cells[-1].outputs[0].data["text/plain"]
    assert (course / "build" / FOUR / "mine.txt").exists()


def test_run_stops_at_the_cell_that_fails_and_says_which(course, capsys):
    write(course, "01_first", "def f(x):\n    return 1 / x", "f(1)", "f(0)", "'never'")
    write(course, "02_second")
    assert notebooks.main(["run"], root=course) == 1
    captured = capsys.readouterr()
    assert "01_first.ipynb, cell 5 (" in captured.err and "failed: f(0)" in captured.err
    assert captured.err.splitlines()[-2].strip() == "ZeroDivisionError: division by zero"
    assert "\x1b" not in captured.err and len(captured.err.splitlines()) < 12
    assert "02_second" not in captured.out
    assert (course / "build" / "run" / "01_first.ipynb").exists()


def test_run_tells_a_kernel_that_dies(course, capsys):
    write(course, "01_first", "import os", "os._exit(9)")
    assert notebooks.main(["run"], root=course) == 1
    assert "01_first.ipynb, the kernel died" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupted_run_says_so_and_leaves_no_kernel(course, root):
    shutil.copytree(root / "tools", course / "tools")
    write(course, "01_first", "import os\nopen('kernel', 'w').write(str(os.getpid()))", "while True: pass")
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.notebooks", "run"],
        cwd=course,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    kernel = course / "notebooks" / "kernel"
    wait_until(lambda: kernel.exists() and kernel.read_text())
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "\nInterrupted.\n"
    assert process.returncode == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(kernel.read_text()), 0)


def wait_until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_run_without_a_result_fails(course, capsys):
    write(course, FOUR)
    stale = course / "build" / "run" / FOUR / "result.json"
    stale.parent.mkdir(parents=True)
    stale.write_text(json.dumps(RESULT))
    assert notebooks.main(["run"], root=course) == 1
    assert f"No before/after table: {FOUR} has not written" in capsys.readouterr().err


def test_part_of_the_series_needs_no_table(course, capsys):
    write(course, "01_first")
    write(course, FOUR)
    assert notebooks.main(["run", "01"], root=course) == 0
    assert "Before and after" not in capsys.readouterr().out


def test_a_result_without_a_change_is_told(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({**RESULT, "change": None}))
    with pytest.raises(CourseError, match="is not as expected .TypeError"):
        notebooks.result_table(tmp_path / "result.json")


@pytest.mark.parametrize(("command", "status"), [("run", 1), ("outputs", 0), ("check", 0)])
def test_a_course_without_notebooks(command, status, course, capsys):
    assert notebooks.main([command], root=course) == status
    captured = capsys.readouterr()
    assert "Notebooks in order: 0." in captured.out or "There is no notebook in" in captured.err


def test_a_name_that_fits_no_notebook(course, capsys):
    write(course, "01_first")
    assert notebooks.main(["check", "01", "07"], root=course) == 1
    assert capsys.readouterr().err == "No notebook's name starts with '07'. Choose from: 01_first.\n"


# --- outputs ---


def test_outputs_refreshes_in_place_and_twice_the_same(course, capsys):
    path = write(course, "01_first", "print('shown')", "1 + 1")
    assert notebooks.main(["check"], root=course) == 1
    assert "run `make outputs`" in capsys.readouterr().out
    assert notebooks.main(["outputs"], root=course) == 0
    once = path.read_bytes()
    assert notebooks.main(["check"], root=course) == 0
    assert notebooks.main(["outputs"], root=course) == 0
    assert path.read_bytes() == once
    notebook = json.loads(once)
    assert [cell["id"] for cell in notebook["cells"]] == [f"01-first-{n}" for n in (1, 2, 3, 4)]
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert sorted(os.listdir(path.parent)) == ["01_first.ipynb"]


def test_outputs_leaves_a_failing_notebook_alone(course, capsys):
    path = write(course, "01_first", "print('shown')", "1 / 0")
    before = path.read_bytes()
    assert notebooks.main(["outputs"], root=course) == 1
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_outputs_keeps_what_went_to_stderr_and_complains(course, capsys):
    path = write(course, "01_first", "import sys\nprint('a warning', file=sys.stderr)")
    assert notebooks.main(["outputs"], root=course) == 1
    assert "(01-first-3): text on stderr: a warning" in capsys.readouterr().out
    assert "a warning" in path.read_text()


def test_progress_bars_of_libraries_leave_no_warning(course, capsys):
    pytest.importorskip("tqdm")
    write(course, "01_first", "import tqdm.auto")
    assert notebooks.main(["outputs"], root=course) == 0, capsys.readouterr().out


# --- check ---


@pytest.fixture
def sound(course: Path) -> tuple[Path, dict]:
    """A notebook without fault, as a path and as JSON; its cells by number: title, bootstrap, 2 heading, 3 figure."""
    picture = new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": "A rising line."}})
    said = new_output("stream", name="stdout", text="A rising\nline.\n")
    title = f"# Title\n\n{opening.badge('01_first.ipynb')}\n\n![A diagram](diagram.png) as `[a](b)`, $[c](d)$"
    cells = [
        new_markdown_cell(title),
        new_code_cell(opening.BOOTSTRAP_CELL.replace("NEEDS = []", 'NEEDS = ["torch>=2.10"]'), execution_count=1),
        new_markdown_cell("## The reward\n\n[next](02_second.ipynb#the-reward), [above](#title), [a](https://a.b/c)"),
        new_code_cell("import torch, os\ndraw()", outputs=[picture, said], execution_count=2),
        new_code_cell("", execution_count=None),
    ]
    notebook = new_notebook(cells=cells)
    hygiene.normalise(notebook, course)
    for name in ("diagram.png", "02_second.ipynb"):
        (course / "notebooks" / name).write_text("")
    path = course / "notebooks" / "01_first.ipynb"
    nbformat.write(notebook, path)
    return path, json.loads(path.read_text())


def stream(name: str, text: str) -> dict:
    return {"output_type": "stream", "name": name, "text": [text]}


def result(text: str) -> dict:
    return {"output_type": "execute_result", "execution_count": 2, "metadata": {}, "data": {"text/plain": [text]}}


def picture(kind: str, **metadata: dict) -> dict:
    return {"output_type": "display_data", "metadata": metadata, "data": {kind: "AAAA"}}


def change(number: int, **parts: Any) -> Callable[[dict], None]:
    return lambda notebook: notebook["cells"][number].update(parts)


def swap(number: int, old: str, new: str) -> Callable[[dict], None]:
    """Exchange a piece of a cell's source."""

    def exchange(notebook: dict) -> None:
        source = "".join(notebook["cells"][number]["source"])
        assert old in source
        notebook["cells"][number]["source"] = source.replace(old, new)

    return exchange


ALT = {"image/png": {"alt": "A line."}}
ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
STALE = "outputs are older"
# name: (what breaks a sound notebook, what the fault says); a change of code makes the outputs stale as well
FAULTY = {
    "changed code": (swap(3, "draw()", "draw(1)"), STALE),
    "no hash": (lambda nb: nb["metadata"].pop("course"), STALE),
    "not executed": (change(3, execution_count=None), "not executed from top to bottom"),
    "out of order": (change(1, execution_count=3), "not executed from top to bottom"),
    "error": (change(4, outputs=[ERROR]), "an error in the outputs: ValueError: no"),
    "stderr": (change(4, outputs=[stream("stderr", "x\nlast")]), "text on stderr: last"),
    "widgets": (lambda nb: nb["metadata"].update(widgets={}), "metadata.widgets"),
    "kernel": (lambda nb: nb["metadata"]["kernelspec"].update(name="mine"), "kernelspec"),
    "kernel's name": (lambda nb: nb["metadata"]["kernelspec"].update(display_name=".venv"), "kernelspec"),
    "language": (lambda nb: nb["metadata"]["language_info"].update(version="3.11.7"), "language_info"),
    "format": (lambda nb: nb.update(nbformat_minor=4), "not in nbformat 4.5"),
    "no id": (lambda nb: nb["cells"][2].pop("id"), "an id that is missing"),
    "same id": (lambda nb: nb["cells"][2].update(id=nb["cells"][1]["id"]), "there twice"),
    "bad id": (change(2, id="a b"), "malformed"),
    "home": (change(1, outputs=[stream("stdout", "/home/ann/x")]), "/home/ann"),
    "new line": (change(1, outputs=[{**stream("stdout", ""), "text": ["a\n", "/content/x"]}]), "/content/x"),
    "library": (change(1, outputs=[stream("stdout", "at /usr/lib/python3")]), "/usr/lib/p"),
    "temporary": (change(1, outputs=[result("'/tmp/ab12'")]), "/tmp/a"),
    "windows": (change(1, outputs=[result("C:\\Users\\ann")]), "Users"),
    "address": (change(1, outputs=[result("<A object at 0x7f3a12345678>")]), "at 0x7f3a"),
    "structure": (change(1, outputs=[{**result(""), "data": {"application/json": {"a": "/root/x"}}}]), "/root/x"),
    "token": (change(1, outputs=[result("hf_" + 25 * "a")]), "token of one machine"),
    "token in source": (swap(2, "next", "sk-proj-" + 25 * "a"), "an access token in the source"),
    "path in source": (swap(2, "next", "/home/ann/course"), "a path of one machine in the source: /home/ann"),
    "path in code": (swap(3, "draw()", "draw('/content/x')"), "a path of one machine in the source: /content/x"),
    "figure": (change(4, outputs=[picture("image/png")]), "a figure without alt text"),
    "drawing": (change(4, outputs=[picture("image/svg+xml")]), "a figure without alt text"),
    "other alt": (change(4, outputs=[picture("image/svg+xml", **ALT)]), "a figure without alt text"),
    "empty alt": (change(4, outputs=[picture("image/png", **{"image/png": {"alt": " "}})]), "a figure without alt"),
    "alt not printed": (change(4, outputs=[picture("image/png", **ALT)]), "whose alt text is not printed"),
    "image": (swap(0, "A diagram", ""), "an image without alt text"),
    "img": (swap(2, "next", '<img src="diagram.png" alt="">'), "an image without alt text"),
    "link": (swap(2, "02_second", "02_other"), "a link to a file that is not there: 02_other.ipynb#the-reward"),
    "missing image": (swap(0, "diagram.png", "diagrams.png"), "not there: diagrams.png"),
    "src": (swap(2, "next", '<img src="b.png" alt="b">'), "not there: b.png"),
    "no badge": (swap(0, "[![Open In Colab]", "[![Colab]"), "no title with the Colab badge"),
    "other badge": (swap(0, "/01_first", "/02_second"), "no title with the Colab badge"),
    "no title": (swap(0, "# Title", "Title"), "no title with"),
    "bootstrap": (swap(1, "roots = [clone]", "roots = []"), "cell 2 is not the bootstrap cell"),
    "own address": (swap(1, "/NAME", "/mine"), "cell 2 is not the bootstrap cell"),
    "no bootstrap": (lambda nb: nb["cells"].insert(1, nb["cells"].pop(2)), "cell 2 is not the bootstrap cell"),
    "own bound": (swap(1, "torch>=2.10", "torch>=2.13"), "NEEDS names torch>=2.13, which"),
    "need left out": (swap(3, "import torch", "import trl"), "NEEDS leaves out trl"),
    "helper's need": (swap(3, "draw()", "import helpers.figures"), "NEEDS leaves out matplotlib"),
    "large": (swap(2, "next", 1_000_001 * "x"), "1.0 MB, more than 1 MB"),
}


def test_check_finds_the_folder_that_the_course_lay_in(sound, course, monkeypatch):
    """Wherever that is: here in a place that no other rule knows."""
    path, notebook = sound
    monkeypatch.setattr(hygiene, "MACHINE", hygiene.TOKEN)
    change(1, outputs=[stream("stdout", f"running {course.resolve()}/.venv/bin/python")])(notebook)
    path.write_text(json.dumps(notebook))
    [found] = hygiene.faults(path, course)
    assert "a path, address or token of one machine in the outputs" in found


@pytest.mark.parametrize("name", FAULTY)
def test_check_finds(name, sound, course, capsys):
    path, notebook = sound
    (course / "helpers" / "figures.py").write_text("import matplotlib.pyplot\n\ndef f():\n    import trl\n")
    break_it, message = FAULTY[name]
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    before = json.dumps(code)
    break_it(notebook)
    path.write_text(json.dumps(notebook))
    found = list(hygiene.faults(path, course))
    is_code_changed = before != json.dumps([cell["source"] for cell in notebook["cells"] if "outputs" in cell])
    if message != STALE and is_code_changed and name != "own address":  # the address is no input
        found.remove(next(fault for fault in found if STALE in fault))
    assert len(found) == (2 if name == "same id" else 1) and message in found[0]
    assert notebooks.main(["check"], root=course) == 1
    assert "notebooks/01_first.ipynb: " in capsys.readouterr().out


def test_check_reads_a_file_that_is_no_notebook(course, capsys):
    (course / "notebooks" / "01_first.ipynb").write_text("{")
    assert notebooks.main(["check"], root=course) == 1
    assert "not a notebook" in capsys.readouterr().out


def test_tagged_cells_may_fail_or_be_left_out(sound, course):
    path, notebook = sound
    notebook["cells"][3].update(metadata={"tags": ["raises-exception"]}, outputs=[ERROR])
    notebook["cells"][4].update(metadata={"tags": ["skip-execution"]})
    path.write_text(json.dumps(notebook))
    assert list(hygiene.faults(path, course)) == []


# --- the hash of the inputs ---


def test_the_hash_follows_what_outputs_depend_on(course):
    def hashed(code: str = "from helpers import a", text: str = "text") -> str:
        return hygiene.inputs_hash([new_markdown_cell(text), new_code_cell(code)], course)

    helpers = course / "helpers"
    (helpers / "a.py").write_text("from .package.inner import x\n")
    (helpers / "b.py").write_text("")
    (helpers / "package").mkdir()
    for name in ("__init__", "inner", "started_as_a_process"):
        (helpers / "package" / f"{name}.py").write_text("")
    first = hashed()
    assert hashed(text="other text") == first
    assert hashed("from helpers import a, b") != first
    (helpers / "b.py").write_text("changed = 1")
    (course / "data" / "README.md").write_text("words")
    (course / "data" / ".hidden").write_text("nothing")
    (helpers / "a.py").write_text('"""About a."""\n\n# More of the same.\nfrom .package.inner import (\n    x,\n)\n')
    assert hashed() == first == hashed("# a comment\nfrom helpers import  a")
    for path in (helpers / "a.py", helpers / "package" / "started_as_a_process.py", course / "data" / "new.jsonl"):
        before = hashed()
        path.write_text("from helpers.package import inner")
        assert hashed() != before, path
    before = hashed()
    (course / "requirements.txt").write_text("torch==1.0")
    assert hashed() != before


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("def f():\n    'Old.'\n    return 1", "def f():\n    'New.'\n\n    return (1)  # why", True),
        ("class A:\n    x = 1\n    'Old.'", "class A:\n    x = 1", True),
        ("x = 1", "x = 2", False),
        ("x = 'old'", "x = 'new'", False),
        ("f(x)", "f(x=x)", False),
        ("'first'\n'shown'", "'shown'", True),
        ("'shown'", "'changed'", False),  # a notebook shows the value of the last line
        ("%matplotlib inline\nx", "%matplotlib agg\nx", False),
        ("%%bash\nls # a", "%%bash\nls # b", False),
    ],
)
def test_code_is_alike_if_it_runs_alike(one, other, alike):
    assert (hygiene.code_tree(one, is_cell=True) == hygiene.code_tree(other, is_cell=True)) == alike


def test_in_a_module_a_last_string_is_documentation():
    assert hygiene.code_tree("x = 1\n'Old.'") == hygiene.code_tree("x = 1\n'New.'")


def test_rewording_costs_no_outputs_and_a_constant_those_of_its_notebooks(tmp_path, root):
    for folder in ("helpers", "notebooks", "data"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "requirements.txt", tmp_path)

    def hashes() -> dict[str, str]:
        cells = {path.name: json.loads(path.read_text())["cells"] for path in notebooks.notebook_paths(tmp_path)}
        return {name: hygiene.inputs_hash(cells[name], tmp_path) for name in cells}

    before = hashes()
    assert len(before) >= 4
    for path in (tmp_path / "helpers").rglob("*.py"):
        path.write_text("# A comment.\n" + path.read_text().replace('"""', '"""Reworded: ', 1))
    assert hashes() == before
    for module, numbers in {"runtime": None, "preferences": ["01"]}.items():
        before = hashes()
        with (tmp_path / f"helpers/{module}.py").open("a") as file:
            file.write("\nNEW = 1\n")
        stale = [name[:2] for name, now in hashes().items() if now != before[name]]
        assert stale == (numbers or [name[:2] for name in before]), module


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import helpers.rewards as r\nimport math", {"rewards"}),
        ("from helpers.verifier.pool import grade", {"verifier"}),
        ("from helpers import problems, rewards", {"problems", "rewards"}),
        ("def f():\n    from ..policy import sample", {"policy"}),
        ("%matplotlib inline\n!python -m helpers.train --profile tiny", {"train"}),
        ("%%bash\nls 'unclosed", set()),
        ("from os import path", set()),
    ],
)
def test_imports_of_helpers_are_found(code, names):
    assert imports.imported_helpers(code) == names


def test_names_of_cells_are_kept_and_made_from_headings():
    cells = [
        new_markdown_cell("# Title", id="my-own-name"),
        new_code_cell("1", id="0a1b2c3d"),
        new_markdown_cell("Words.\n\n## Pass@k, measured!"),
        new_code_cell("# no heading", id="d2f6ac1e-4f50-4c4e-9d51-6f2f0f1c2a3b"),
        new_code_cell("2", id="pass-k-measured-2"),
    ]
    hygiene.name_cells(cells)
    assert [cell.id for cell in cells] == [
        "my-own-name",
        "title-1",
        "pass-k-measured-1",
        "pass-k-measured-3",
        "pass-k-measured-2",
    ]


def test_widgets_and_traces_of_editors_are_dropped(course):
    widget = new_output("display_data", {hygiene.WIDGET: {}, "text/plain": "bar"})
    cell = new_code_cell("1", outputs=[widget], metadata={"tags": ["exercise"], "execution": {}, "vscode": {}})
    notebook = new_notebook(cells=[cell], metadata={"widgets": {}, "course": {"minutes": 3}})
    hygiene.normalise(notebook, course)
    assert notebook.cells[0].metadata == {"tags": ["exercise"]}
    assert notebook.cells[0].outputs[0].data == {"text/plain": "bar"}
    assert set(notebook.metadata) == {"kernelspec", "language_info", "course"}
    assert set(notebook.metadata.course) == {"minutes", "inputs"}


# --- how notebooks begin ---


def beginning(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells[:2]]


@pytest.fixture
def published(course: Path, root: Path) -> Path:
    """A course with what `publish` writes to, and one notebook."""
    shutil.copytree(root / "tools", course / "tools")
    (course / "README.md").write_text(f"| [01](notebooks/01_first.ipynb) | {opening.badge('01_first.ipynb')} |\n")
    write(course, "01_first", "print('shown')")
    return course


def tool(course: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The course's own copy of the tool: `publish` changes what it does from then on."""
    command = [sys.executable, "-m", "tools.notebooks", *arguments]
    return subprocess.run(command, cwd=course, capture_output=True, text=True, timeout=60)


def test_bootstrap_brings_a_beginning_up_to_date_and_keeps_what_is_needed(course):
    path = write(course, "01_first")
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source = "# Title\nText.\n\n[![Open In Colab](x.svg)](y.ipynb)\n\nMore."
    notebook.cells[1].source = 'NEEDS = [\n    "trl>=0.1",\n    "mine",\n]\nold()'
    nbformat.write(notebook, path)
    for _ in range(2):
        assert notebooks.main(["bootstrap"], root=course) == 0
        title, cell = beginning(path)
        assert title == f"# Title\n\n{opening.badge('01_first.ipynb')}\n\nText.\n\nMore."
        assert cell == opening.BOOTSTRAP_CELL.replace("NEEDS = []", 'NEEDS = ["trl>=1.16", "mine"]')


def test_a_long_list_of_needs_is_broken_as_ruff_does(course):
    path = write(course, "01_first")
    notebook = nbformat.read(path, 4)
    notebook.cells[1].source = opening.BOOTSTRAP_CELL.replace("NEEDS = []", f"NEEDS = {list(opening.LOWER_BOUNDS)}")
    nbformat.write(notebook, path)
    notebooks.main(["bootstrap"], root=course)
    assert opening.needs_of(beginning(path)[1]) == list(opening.LOWER_BOUNDS)
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "79", path]
    assert subprocess.run(ruff, capture_output=True).returncode == 0


def test_bootstrap_refuses_another_second_cell(course, capsys):
    path = write(course, "01_first")
    notebook = nbformat.read(path, 4)
    notebook.cells[1].source = "print()"
    nbformat.write(notebook, path)
    assert notebooks.main(["bootstrap"], root=course) == 1
    assert capsys.readouterr().err.startswith("01_first.ipynb: the second cell is no bootstrap cell")


def test_publish_writes_the_address_everywhere_and_outputs_stay_fresh(published):
    path = published / "notebooks" / "01_first.ipynb"
    assert tool(published, "outputs").returncode == 0
    told = tool(published, "publish", "https://github.com/ann/a-course.git/", "v1.0")
    assert told.stdout == "Bootstrap cells and badges now name https://github.com/ann/a-course, v1.0.\n", told.stderr
    title, cell = beginning(path)
    assert '\nREPO, REF = "https://github.com/ann/a-course", "v1.0"\n' in cell
    page = "https://colab.research.google.com/github/ann/a-course/blob/v1.0/notebooks/01_first.ipynb"
    assert f"({page})" in title and f"({page})" in (published / "README.md").read_text()
    assert tool(published, "check").returncode == 0
    assert tool(published, "publish", "https://github.com/bob/other").returncode == 0
    for file in ("notebooks/01_first.ipynb", "README.md", "tools/opening.py"):
        assert "bob/other" in (text := (published / file).read_text()) and "ann" not in text and "v1.0" not in text


@pytest.mark.parametrize(
    "given", [[], [""], ["you/name"], ["https://example.org/you/name"], ["https://github.com/you/name", 'a"b']]
)
def test_publish_refuses_what_is_no_address(given, published):
    before = {file: file.read_bytes() for file in published.rglob("*.*") if file.is_file() and file.suffix != ".pyc"}
    refused = tool(published, "publish", *given)
    assert refused.returncode == 1 and refused.stderr.startswith("Name the address: make publish REPOSITORY=")
    assert {file: file.read_bytes() for file in before} == before


def test_the_sizes_of_cells_are_shown(course, capsys):
    write(course, "01_first", *["x = 1"] * 8, "y = 2\n" * 30, "z" * 90)
    notebooks.main(["check"], root=course)
    names, sizes = capsys.readouterr().out.splitlines()[:2]
    assert names.split() == ["cells", "code", "median", "lines", "p90", "widest", "line", "kB"]
    assert sizes.split()[:6] == ["01_first", "12", "11", "1", "30", "90"]
