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
