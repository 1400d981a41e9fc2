"""tools.browser: what it reads from the cells after a run. CI's browser job opens the notebooks themselves."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from helpers.runtime import CourseError
from tools import browser

ERROR = new_output("error", ename="ZeroDivisionError", evalue="division by zero", traceback=[])


def test_errors_and_cells_that_did_not_run_are_found():
    cells = [
        new_markdown_cell("text"),
        new_code_cell("1", execution_count=1),
        new_code_cell("1 / 0", execution_count=2, outputs=[ERROR]),
        new_code_cell("1 / 0", execution_count=3, outputs=[ERROR], metadata={"tags": ["raises-exception"]}),
        new_code_cell("2"),
        new_code_cell("3", metadata={"tags": ["skip-execution"]}),
        new_code_cell(" "),
    ]
    first, second = browser.faults_of_run(cells)
    assert first.startswith("cell 3 (") and first.endswith("ZeroDivisionError: division by zero")
    assert second.startswith("cell 5 (") and second.endswith("it did not run")


class Page:
    """A page of the browser in which a run goes through these states, and then stays in the last one."""

    def __init__(self, *running: int, ended: bool = False, troubles: tuple[str, ...] = (), dialog: str = ""):
        self.states = [{"ended": False, "troubles": [], "running": cell} for cell in running]
        self.states.append({"ended": ended, "troubles": list(troubles), "running": running[-1]})
        self.dialog, self.waited, self.closed, self.first = dialog, 0, False, self

    def evaluate(self, script):
        if script == browser.SHUT_DOWN:
            raise RuntimeError("the page crashed")
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def locator(self, sign):
        return self

    def count(self):
        return bool(self.dialog)

    def inner_text(self):
        return self.dialog

    def wait_for_timeout(self, milliseconds):
        self.waited += 1

    def close(self):
        self.closed = True


def test_the_wait_ends_with_the_run_and_tells_what_happened_to_the_kernel():
    page = Page(0, 1, 1, ended=True, troubles=("dead",))
    assert browser.wait_for_run(page) == (True, ["the kernel: dead"]) and page.waited == 3


def test_the_limit_is_for_each_cell(monkeypatch):
    times = iter(range(0, 10_000, 60 * browser.CELL_MINUTES - 10))
    monkeypatch.setattr(browser.time, "monotonic", lambda: next(times))
    assert browser.wait_for_run(Page(0, 1, 2, 3, ended=True)) == (True, [])
    assert browser.wait_for_run(Page(0, 1, 1, troubles=("disconnected",))) == (
        False,
        ["cell 2 still ran after 15 minutes", "the kernel: disconnected"],
    )


def test_a_dialog_ends_the_wait():
    assert browser.wait_for_run(Page(0, 1, dialog="Kernel Restarting")) == (
        False,
        ["a dialog opened: Kernel Restarting"],
    )


def test_a_page_that_crashed_is_closed_as_well(monkeypatch, tmp_path):
    page = Page(0)
    monkeypatch.setattr(page, "new_page", lambda viewport: page, raising=False)
    monkeypatch.setattr(browser, "_faults_on", lambda *arguments: ["a fault"])
    assert browser.look_at_notebook(page, "address", "notebooks/01.ipynb", tmp_path) == ["a fault"] and page.closed


def test_the_last_picture_is_the_one_to_keep():
    picture = new_output("display_data", data={"text/html": '<img src="data:,">'})
    assert (
        browser.picture_cell([new_markdown_cell("a"), new_code_cell("b", outputs=[picture]), new_code_cell("c")]) == 1
    )
    assert browser.picture_cell([new_code_cell("c")]) == 0


def test_html_hides_the_picture_of_the_same_output():
    both = {"text/html": "<figure><img src='data:,'></figure>", "image/png": "abc"}
    assert [browser.pictures({"data": data}) for data in (both, {"image/png": "abc"}, {"text/html": "<b>"}, {})] == [
        1,
        1,
        0,
        0,
    ]


def test_no_notebook_is_an_error_and_not_a_success(tmp_path, capsys):
    assert browser.main([], root=tmp_path) == 1
    assert "There is no notebook in" in capsys.readouterr().err
    with pytest.raises(CourseError, match="No notebook's name starts with '09'"):
        browser.run(tmp_path, ["09"])
