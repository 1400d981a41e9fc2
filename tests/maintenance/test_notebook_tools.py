"""tools.notebooks: run, outputs and check, on small courses made for the test."""

import base64
import json
import os
import re
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
from tools import hygiene, notebooks, opening

FOUR = notebooks.RESULT_NOTEBOOK
PART = {"greedy": 0.25, "pass@1": 0.3, "pass@8": 0.9, "problems": 164, "samples": 8}
PART["interval"] = {name: [0.2, 0.95] for name in ("greedy", "pass@1", "pass@8")}
CHANGE = {name: {"difference": -0.125, "interval": [-0.2, 0.05]} for name in ("greedy", "pass@1", "pass@8")}
SCORES = {"before": PART, "after": {**PART, "greedy": 1.0}, "change": CHANGE}
RESULT = {"held_out": {"tiny": SCORES}}


@pytest.fixture
def course(tmp_path: Path, root: Path) -> Path:
    """A course without notebooks, in a folder whose name holds a space."""
    course = tmp_path / "a course"
    for folder in ("helpers", "notebooks", "data"):
        (course / folder).mkdir(parents=True)
    for name in ("__init__.py", "runtime.py", "run_folder.py"):
        shutil.copy(root / "helpers" / name, course / "helpers" / name)
    shutil.copy(root / "requirements.txt", course)
    return course


def write(course: Path, name: str, *sources: str) -> Path:
    """A notebook of a title, the bootstrap cell and code cells with these sources."""
    path = course / "notebooks" / f"{name}.ipynb"
    cells = [
        new_markdown_cell(f"# {name}\n\n{opening.colab_link(path.name)}"),
        new_code_cell(opening.BOOTSTRAP_CELL, metadata=opening.FOLDED),
    ]
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
    monkeypatch.setenv("COURSE_STRICT", "1")  # it would stop the run at the first open exercise
    first = write(course, "01_first", "import os; assert os.getcwd().endswith('notebooks')", "1 + 1")
    four = write(course, FOUR, "import os; assert 'COURSE_STRICT' not in os.environ", saving(RESULT))
    committed = [path.read_bytes() for path in (first, four)]
    (course / "build" / FOUR).mkdir(parents=True)
    (course / "build" / FOUR / "mine.txt").write_text("a reader's own result")
    for _ in range(2):  # the second run replaces what the first one left
        assert notebooks.main(["run"], root=course) == 0
    said = capsys.readouterr().out
    assert said.index("01_first ") < said.index(f"{FOUR} ") < said.index("Peak memory") < said.index("Before and after")
    assert "on 164 held-out problems of " in said
    assert "greedy     25.0 % [20.0, 95.0]    100.0 % [20.0, 95.0]    -12.5 [-20.0, 5.0]" in said
    assert [path.read_bytes() for path in (first, four)] == committed
    executed = nbformat.read(course / "build" / "run" / "01_first.ipynb", 4)
    assert [cell.execution_count for cell in executed.cells[1:]] == [1, 2, 3]
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


def test_results_can_go_to_a_folder_outside_the_course(course, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "elsewhere"))
    write(course, FOUR, "import os; assert 'a course' in os.getcwd()", saving(RESULT))
    assert notebooks.main(["run"], root=course) == 0
    assert sorted(os.listdir(tmp_path / "elsewhere/run")) == [FOUR, f"{FOUR}.ipynb"]


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


def test_a_result_without_a_change_is_told(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"held_out": {"tiny": {**SCORES, "change": None}}}))
    with pytest.raises(CourseError, match=r"is not as expected .TypeError"):
        notebooks.result_table(tmp_path / "result.json")


def test_a_course_without_notebooks_and_a_name_that_fits_none(course, capsys):
    assert notebooks.main(["run"], root=course) == 1
    assert "There is no notebook in" in capsys.readouterr().err
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


def test_the_picture_of_the_readme_is_written(course):
    pixel = "iVBORw0KGgo="
    show = f'from IPython.display import HTML\nHTML(\'<img alt="A dot." src="data:image/png;base64,{pixel}">\')'
    path = write(course, "01_first", show)
    notebook = nbformat.read(path, 4)
    notebook.cells[2].metadata["tags"] = ["readme-picture"]
    nbformat.write(notebook, path)
    assert notebooks.main(["outputs"], root=course) == 0
    assert (course / notebooks.README_PICTURE).read_bytes() == base64.b64decode(pixel)


def test_pieces_of_printed_text_are_joined_and_overwritten_lines_dropped():
    pieces = [("stdout", "step 1\rstep"), ("stdout", " 2\n"), ("stderr", "oh"), ("stdout", "end\r\n")]
    merged = hygiene.merged_streams([new_output("stream", name=name, text=text) for name, text in pieces])
    assert [(piece.name, piece.text) for piece in merged] == [
        ("stdout", "step 2\n"),
        ("stderr", "oh"),
        ("stdout", "end\r\n"),
    ]


def test_outputs_leaves_a_failing_notebook_alone(course, capsys):
    path = write(course, "01_first", "print('shown')", "1 / 0")
    before = path.read_bytes()
    assert notebooks.main(["outputs"], root=course) == 1
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_outputs_keeps_what_went_to_stderr_and_complains(course, capsys):
    path = write(course, "01_first", "import sys\nprint('a warning', file=sys.stderr)")
    assert notebooks.main(["outputs"], root=course) == 1
    assert "(01-first-3): there is text on stderr: a warning" in capsys.readouterr().out
    assert "a warning" in path.read_text()


# --- check ---


@pytest.fixture
def sound(course: Path) -> tuple[Path, dict]:
    """A notebook without fault, as a path and as JSON; its cells by number: title, bootstrap, 2 heading, 3 figure."""
    picture = new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": "A rising line."}})
    title = f"# Title\n\n{opening.colab_link('01_first.ipynb')}\n\n![A diagram](diagram.png) as `[a](b)`, $[c](d)$"
    first = opening.BOOTSTRAP_CELL.replace("NEEDS = []", 'NEEDS = ["torch>=2.10"]')
    links = "[up](#Title), [next](02_second.ipynb#The-loss), [term](glossary.md#term), [a](https://a.b/c)"
    cells = [
        new_markdown_cell(title),
        new_code_cell(first, execution_count=1, metadata=opening.FOLDED),
        new_markdown_cell(f"## The reward\n\n{links}"),
        new_code_cell("import torch, os\ndraw()", outputs=[picture], execution_count=2),
        new_code_cell("", execution_count=None),
    ]
    notebook = new_notebook(cells=cells)
    hygiene.normalise(notebook, course)
    (course / "notebooks/diagram.png").write_text("")
    (course / "notebooks/glossary.md").write_text('# Glossary\n\n<a id="term"></a>\n\n### Term\n')
    nbformat.write(new_notebook(cells=[new_markdown_cell("## The loss")]), course / "notebooks/02_second.ipynb")
    path = course / "notebooks" / "01_first.ipynb"
    nbformat.write(notebook, path)
    return path, json.loads(path.read_text())


def stream(name: str, text: str) -> dict:
    return {"output_type": "stream", "name": name, "text": [text]}


def result(text: str) -> dict:
    return {"output_type": "execute_result", "execution_count": 2, "metadata": {}, "data": {"text/plain": [text]}}


def picture(kind: str, content: str) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": {kind: content}}


def change(number: int, **parts: Any) -> Callable[[dict], None]:
    return lambda notebook: notebook["cells"][number].update(parts)


def swap(number: int, old: str, new: str) -> Callable[[dict], None]:
    """Exchange a piece of a cell's source."""

    def exchange(notebook: dict) -> None:
        source = "".join(notebook["cells"][number]["source"])
        assert old in source
        notebook["cells"][number]["source"] = source.replace(old, new)

    return exchange


ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
STALE = "outputs are older"
# name: (what breaks a sound notebook, what the fault says); a change of code makes the outputs stale as well
FAULTY = {
    "changed code": (swap(3, "draw()", "draw(1)"), STALE),
    "no hash": (lambda nb: nb["metadata"].pop("course"), STALE),
    "not executed": (change(3, execution_count=None), "not executed from top to bottom"),
    "out of order": (change(1, execution_count=3), "not executed from top to bottom"),
    "error": (change(4, outputs=[ERROR]), "the outputs contain an error: ValueError: no"),
    "stderr": (change(4, outputs=[stream("stderr", "x\nlast")]), "text on stderr: last"),
    "widgets": (lambda nb: nb["metadata"].update(widgets={}), "metadata.widgets"),
    "kernel": (lambda nb: nb["metadata"]["kernelspec"].update(name="mine"), "kernelspec"),
    "language": (lambda nb: nb["metadata"]["language_info"].update(version="3.11.7"), "language_info"),
    "format": (lambda nb: nb.update(nbformat_minor=4), "not in nbformat 4.5"),
    "no id": (lambda nb: nb["cells"][2].pop("id"), "the id is missing"),
    "same id": (lambda nb: nb["cells"][2].update(id=nb["cells"][1]["id"]), "used twice"),
    "bad id": (change(2, id="a b"), "malformed"),
    "home": (change(1, outputs=[stream("stdout", "/home/ann/x")]), "/home/ann"),
    "new line": (change(1, outputs=[{**stream("stdout", ""), "text": ["a\n", "/content/x"]}]), "/content/x"),
    "library": (change(1, outputs=[stream("stdout", "at /usr/lib/python3")]), "/usr/lib/p"),
    "temporary": (change(1, outputs=[result("'/tmp/ab12'")]), "/tmp/a"),
    "windows": (change(1, outputs=[result("C:\\Users\\ann")]), "Users"),
    "address": (change(1, outputs=[result("<A object at 0x7f3a12345678>")]), "at 0x7f3a"),
    "structure": (change(1, outputs=[{**result(""), "data": {"application/json": {"a": "/root/x"}}}]), "/root/x"),
    "token": (change(1, outputs=[result("hf_" + 25 * "a")]), "token of one machine"),
    "token in source": (swap(2, "next", "sk-proj-" + 25 * "a"), "the source contains an access token"),
    "path in source": (swap(2, "next", "/home/ann/course"), "the source contains a path of one machine: /home/ann"),
    "figure": (change(4, outputs=[picture("image/png", "AAAA")]), "a figure has no alt text"),
    "figure in HTML": (change(4, outputs=[picture("text/html", '<img alt="" src="data:x">')]), "a figure has no alt"),
    "image": (swap(0, "A diagram", ""), "an image has no alt text"),
    "img": (swap(2, "[next]", '<img src="diagram.png" alt="">[next]'), "an image has no alt text"),
    "link": (swap(2, "02_second", "02_other"), "a link leads nowhere: 02_other.ipynb#The-loss"),
    "heading": (swap(2, "#The-loss", "#the-loss"), "a link leads nowhere: 02_second.ipynb#the-loss"),
    "own heading": (swap(2, "#Title", "#title"), "a link leads nowhere: #title"),
    "anchor": (swap(2, "#term", "#terms"), "a link leads nowhere: glossary.md#terms"),
    "missing image": (swap(0, "diagram.png", "diagrams.png"), "nowhere: diagrams.png"),
    "src": (swap(2, "[next]", '<img src="b.png" alt="b">[next]'), "nowhere: b.png"),
    "no link to Colab": (swap(0, "[Open in Colab]", "[Colab]"), "cell 1 lacks the title or"),
    "other link to Colab": (swap(0, "/01_first", "/02_second"), "cell 1 lacks the title or"),
    "no title": (swap(0, "# Title", "Title\n# Title"), "cell 1 lacks the title or"),
    "bootstrap": (swap(1, "roots = [clone]", "roots = []"), "cell 2 is not the bootstrap cell"),
    "own address": (swap(1, "/NAME", "/mine"), "cell 2 is not the bootstrap cell"),
    "unfolded": (lambda nb: nb["cells"][1]["metadata"].pop("jupyter"), "cell 2 is not folded"),
    "own bound": (swap(1, "torch>=2.10", "torch>=2.13"), "NEEDS names torch>=2.13, but"),
    "need left out": (swap(3, "import torch", "import trl"), "NEEDS leaves out trl"),
    "helper's need": (swap(3, "draw()", "import helpers.figures"), "NEEDS leaves out matplotlib"),
    "large": (swap(2, "next", 1_500_001 * "x"), "1.5 MB is more than 1.5 MB"),
}


def test_check_finds_the_folder_that_the_course_lay_in(sound, course, monkeypatch):
    """Wherever that is: here in a place that no other rule knows."""
    path, notebook = sound
    monkeypatch.setattr(hygiene, "MACHINE", hygiene.TOKEN)
    change(1, outputs=[stream("stdout", f"running {course.resolve()}/.venv/bin/python")])(notebook)
    path.write_text(json.dumps(notebook))
    [found] = hygiene.faults(path, course)
    assert "the outputs contain a path, address or token of one machine" in found


@pytest.mark.parametrize("name", FAULTY)
def test_check_finds(name, sound, course, capsys):
    path, notebook = sound
    (course / "helpers" / "figures.py").write_text("import matplotlib.pyplot\n\ndef f():\n    import trl\n")
    break_it, message = FAULTY[name]
    before = hygiene.inputs_hash(notebook["cells"], course)
    break_it(notebook)
    path.write_text(json.dumps(notebook))
    found = list(hygiene.faults(path, course))
    if message != STALE and hygiene.inputs_hash(notebook["cells"], course) != before:
        found.remove(next(fault for fault in found if STALE in fault))
    assert len(found) == (2 if name == "same id" else 1) and message in found[0]
    assert notebooks.main(["check"], root=course) == 1
    assert "notebooks/01_first.ipynb: " in capsys.readouterr().out


def test_tagged_cells_may_fail_or_be_left_out(sound, course):
    path, notebook = sound
    notebook["cells"][3].update(metadata={"tags": ["raises-exception"]}, outputs=[ERROR])
    notebook["cells"][4].update(metadata={"tags": ["skip-execution"]})
    path.write_text(json.dumps(notebook))
    assert list(hygiene.faults(path, course)) == []


def test_names_of_cells_are_kept_and_made_from_headings():
    cells = [
        new_markdown_cell("# Title", id="my-own-name"),
        new_code_cell("1", id="0a1b2c3d"),
        new_markdown_cell("Words.\n\n## Pass@k, measured!"),
        new_code_cell("# no heading", id="d2f6ac1e-4f50-4c4e-9d51-6f2f0f1c2a3b"),
        new_code_cell("2", id="pass-k-measured-2"),
    ]
    hygiene.name_cells(cells)
    made = ["title-1", "pass-k-measured-1", "pass-k-measured-3"]
    assert [cell.id for cell in cells] == ["my-own-name", *made, "pass-k-measured-2"]


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
    shutil.copy(root / "README.md", course)
    text = (course / "README.md").read_text()
    (course / "README.md").write_text(f"{text}\n<!-- published: {opening.colab_link('01_first.ipynb')} -->\n")
    write(course, "01_first", "print('shown')")
    return course


def visible(path: Path) -> str:
    """The text of a Markdown file without its comments."""
    return re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


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
        assert title == f"# Title\n\n{opening.colab_link('01_first.ipynb')}\n\nText.\n\nMore."
        assert cell == opening.BOOTSTRAP_CELL.replace("NEEDS = []", 'NEEDS = ["trl>=1.16,<1.17", "mine"]')
        assert nbformat.read(path, 4).cells[1].metadata == opening.FOLDED


def test_a_long_list_of_needs_is_broken_as_ruff_does(course):
    path = write(course, "01_first")
    path.write_text(path.read_text().replace("NEEDS = []", f"NEEDS = {list(opening.SUPPORTED)}"))
    notebooks.main(["bootstrap"], root=course)
    assert opening.needs_of(beginning(path)[1]) == list(opening.SUPPORTED)
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "79", path]
    assert subprocess.run(ruff, capture_output=True).returncode == 0


def test_bootstrap_refuses_another_second_cell(course, capsys):
    path = write(course, "01_first")
    path.write_text(path.read_text().replace("NEEDS = []", "print()"))
    assert notebooks.main(["bootstrap"], root=course) == 1
    assert capsys.readouterr().err.startswith("01_first.ipynb: the second cell is not a bootstrap cell")


def test_publish_writes_the_address_everywhere_and_outputs_stay_fresh(published):
    path = published / "notebooks" / "01_first.ipynb"
    assert tool(published, "outputs").returncode == 0
    told = tool(published, "publish", "https://github.com/ann/a-course.git/", "v1.0")
    assert told.stdout == "Bootstrap cells and links now name https://github.com/ann/a-course, v1.0.\n", told.stderr
    title, cell = beginning(path)
    assert '\nREPO, REF = "https://github.com/ann/a-course", "v1.0"\n' in cell
    page = "https://colab.research.google.com/github/ann/a-course/blob/v1.0/notebooks/01_first.ipynb"
    assert f"({page})" in title and f"({page})" in visible(published / "README.md")
    assert "git clone https://github.com/ann/a-course grpo-course\n" in visible(published / "README.md")
    badge = "[![CI](https://github.com/ann/a-course/actions/workflows/ci.yml/badge.svg)]"
    assert badge in visible(published / "README.md")
    assert tool(published, "check").returncode == 0
    assert tool(published, "publish", "https://github.com/bob/other").returncode == 0
    for file in ("notebooks/01_first.ipynb", "README.md", "tools/opening.py"):
        assert "bob/other" in (text := (published / file).read_text()) and "ann/" not in text and "v1.0" not in text


@pytest.mark.parametrize(
    "given", [[""], ["you/name"], ["https://example.org/you/name"], ["https://github.com/a/b", 'a"']]
)
def test_publish_refuses_what_is_no_address(given, published, capsys):
    before = (published / "README.md").read_text(), beginning(published / "notebooks/01_first.ipynb")
    assert notebooks.main(["publish", *given], root=published) == 1
    assert capsys.readouterr().err.startswith("Name the address: make publish REPOSITORY=")
    assert ((published / "README.md").read_text(), beginning(published / "notebooks/01_first.ipynb")) == before


def test_the_sizes_of_cells_are_shown_and_a_file_that_is_no_notebook_is_told(course, capsys):
    (course / "notebooks" / "02_second.ipynb").write_text("{")
    write(course, "01_first", *["x = 1"] * 8, "y = 2\n" * 30, "z" * 90)
    notebooks.main(["check"], root=course)
    names, sizes, *faults = capsys.readouterr().out.splitlines()
    assert "02_second.ipynb: this is not a notebook" in faults[-1]
    assert names.split() == ["cells", "code", "median", "lines", "p90", "widest", "line", "kB"]
    assert sizes.split()[:6] == ["01_first", "12", "11", "1", "30", "90"]
