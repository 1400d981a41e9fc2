import json

import pytest

from helpers import hub
from helpers.mbpp import humaneval_row
from helpers.problems import Problem, ProblemError, load_problems, split_problems
from helpers.verifier import Submission, grade_programs

SQUARES = {
    "task_id": 601,
    "text": "Write a function to return the squares of a list's numbers.",
    "code": "import math\r\ndef helper(x):\r\n\treturn x * SCALE\r\nSCALE = 1\r\ndef squares(xs): \r\n\tout = []\r\n"
    "\tfor x in xs:\r\n\t\tout.append(helper(x) * x)\r\n\treturn out",
    "test_setup_code": "",
    "test_list": ["assert squares([1, 2]) == [1, 4]", "assert squares([]) == []"],
    "challenge_test_list": [],
}
CLASSES = {
    "task_id": 602,
    "text": "Write a function to add up what a chain of links holds.",
    "code": "class Base:\n  pass\nclass Link(Base):\n  def __init__(self, value, rest=None):\n    self.value = value\n"
    "    self.rest = rest\nclass Unused:\n  pass\n"
    "def total(link):\n  return 0 if link is None else link.value + total(link.rest)",
    "test_setup_code": "chain = Link(1)\r\nchain.rest = Link(2)",
    "test_list": ["assert (total(chain)) == 3", "assert total(Link(5)) == 5"],
}


def problem_from(row):
    return Problem(**humaneval_row(row))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def passes(problem, body):
    """Run the tests in this process: the problems here are our own."""
    names = {}
    exec(problem.prompt + body, names)
    function = names[problem.entry_point]
    exec(problem.test, names)
    try:
        names["check"](function)
    except AssertionError:
        return False
    return True


def test_a_row_becomes_a_problem_in_humanevals_form():
    problem = problem_from(SQUARES)
    assert problem.task_id == "601"
    assert problem.entry_point == "squares"
    assert problem.prompt == (
        "import math\n"
        "def squares(xs):\n"
        '    """Write a function to return the squares of a list\'s numbers.\n'
        "\n"
        "    assert squares([1, 2]) == [1, 4]\n"
        '    """\n'
    )
    assert problem.canonical_solution.startswith("    out = []\n    for x in xs:\n        out.append(helper(x) * x)\n")
    assert problem.test == (
        "def check(candidate):\n    assert candidate([1, 2]) == [1, 4]\n    assert candidate([]) == []\n"
    )


@pytest.mark.parametrize("row", [SQUARES, CLASSES, CLASSES | {"test_list": CLASSES["test_list"][:1]}])
def test_the_reference_solution_passes_and_an_empty_body_does_not(row):
    problem = problem_from(row)
    assert passes(problem, problem.canonical_solution)
    assert not passes(problem, "    return None\n")


def test_the_verifier_grades_such_problems():
    problem = problem_from(SQUARES)
    bodies = [problem.canonical_solution, "    return [x * x for x in xs]\n", "    return xs\n"]
    items = [Submission(problem.prompt + body, problem.prompt, problem.test, problem.entry_point) for body in bodies]
    assert [verdict.passed for verdict in grade_programs(items)] == [True, True, False]


def test_the_prompt_holds_the_classes_that_the_tests_name_and_no_others():
    problem = problem_from(CLASSES)
    assert "class Link(Base)" in problem.prompt and "class Base" in problem.prompt
    assert "Unused" not in problem.prompt and "Unused" in problem.canonical_solution
    assert problem.test.startswith("chain = Link(1)\nchain.rest = Link(2)\n")


def test_what_the_signature_names_stands_in_the_prompt():
    code = "from typing import List\nOFFSET = STEP = 2\nLIMIT = OFFSET + 1\nOTHER = 7\n"
    code += "def shift(xs: List[int], by=LIMIT) -> List[int]:\n    return [x + by + OTHER for x in xs]"
    problem = problem_from(SQUARES | {"code": code, "test_list": ["assert shift([1]) == [11]"]})
    assert "OTHER" not in problem.prompt
    assert (
        problem.prompt.index("OFFSET = STEP = 2") < problem.prompt.index("LIMIT = ") < problem.prompt.index("def shift")
    )
    assert passes(problem, problem.canonical_solution)


def test_the_entry_point_is_the_function_that_the_first_assert_calls():
    code = "def first(x):\n    return second(x) + 1\ndef second(x):\n    return x"
    row = SQUARES | {"code": code, "test_list": ["assert set([first(second(1))]) == {2}", "assert second(1) == 1"]}
    problem = problem_from(row)
    assert problem.entry_point == "first"
    assert "candidate(second(1))" in problem.test


def test_an_entry_point_called_check_does_not_hide_the_tests():
    row = SQUARES | {"code": "def check(x):\n    return x > 0", "test_list": ["assert check(1) == True"]}
    problem = problem_from(row)
    item = [
        Submission(problem.prompt + body, problem.prompt, problem.test, "check")
        for body in ("    return x > 0\n", "    return 1 > x\n")
    ]
    assert [verdict.passed for verdict in grade_programs(item)] == [True, False]


def test_strings_with_quotes_backslashes_and_line_breaks_come_through():
    code = 'def f(text):\n  """Its own docstring."""\n  return text + """\n  \\\\"""'
    row = SQUARES | {
        "text": 'Add a "tail" \\d and """quotes""".',
        "code": code,
        "test_list": [r"assert f('\\') == '\\\n  \\'"],
    }
    problem = problem_from(row)
    assert passes(problem, problem.canonical_solution)
    assert "own docstring" not in problem.prompt + problem.canonical_solution


def test_the_sanitized_forms_field_names_are_read_too():
    row = {"task_id": 7, "prompt": "Return the root.", "code": "import math\ndef root(x):\n    return math.sqrt(x)"}
    row |= {"test_imports": ["import math"], "test_list": ["assert math.isclose(root(4), 2.0)"]}
    problem = problem_from(row)
    assert problem.entry_point == "root" and problem.test.startswith("import math\n")
    assert passes(problem, problem.canonical_solution)


def test_a_solution_on_one_line_gets_a_body():
    row = SQUARES | {"code": "def f(x): return x", "test_list": ["assert f(1) == 1"]}
    assert problem_from(row).canonical_solution == "    return x\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code": None}, "field 'code' is missing"),
        ({"text": ""}, "field 'text' must be a string"),
        ({"code": "def f(:"}, "field 'code' is not valid Python"),
        ({"test_list": []}, "'test_list' must be a list with at least one assert"),
        ({"test_list": ["assert other(1)"]}, "does not call a function that 'code' defines"),
        ({"task_id": None}, "field 'task_id' is missing"),
        ({"test_setup_code": 3}, "'test_setup_code' must be a string"),
        ({"test_imports": [3]}, "'test_imports' a list of strings"),
        ({"code": "def squares(xs): return " + "-" * 3000 + "1"}, "nested too deeply|not valid Python"),
    ],
)
def test_a_row_that_cannot_be_used_is_one_sentence(tmp_path, change, message):
    path = write(tmp_path / "mine.jsonl", SQUARES, SQUARES | {"task_id": 2} | change)
    with pytest.raises(ProblemError, match=rf"mine\.jsonl, line 2.*({message})") as caught:
        load_problems(path)
    assert "\n" not in str(caught.value)


def test_a_readers_file_may_hold_rows_of_both_forms_and_is_split_by_hash(tmp_path):
    other = {"task_id": "mine/1", "prompt": "def f(x):\n", "canonical_solution": "    return x\n", "entry_point": "f"}
    other["test"] = "def check(candidate):\n    assert candidate(1) == 1\n"
    rows = [SQUARES | {"task_id": number} for number in range(505, 512)]
    problems = load_problems(write(tmp_path / "mine.jsonl", *rows, other))
    assert problems == [*map(problem_from, rows), Problem(**other)]
    assert [len(part) for part in split_problems(problems)] == [4, 4]  # numbers alone do not make it MBPP


@pytest.fixture
def mbpp(tmp_path, monkeypatch):
    """A file of eight rows that are at the edges of MBPP's parts, named by MBPP_PATH."""
    rows = [SQUARES | {"task_id": number} for number in (1, 10, 11, 510, 511, 600, 601, 974)]
    path = write(tmp_path / "mbpp.jsonl", *rows)
    monkeypatch.setenv("MBPP_PATH", str(path))
    return path


def numbers(problems):
    return [int(problem.task_id.removeprefix("MBPP/")) for problem in problems]


def test_mbpp_is_split_by_its_own_numbers(mbpp):
    problems = load_problems("mbpp")
    train, held_out = split_problems(problems)
    assert [problem.task_id for problem in problems[:2]] == ["MBPP/1", "MBPP/10"]
    assert numbers(train) == [601, 974]
    assert numbers(held_out) == [11, 510]
    assert load_problems("mbpp-test") == held_out


def test_mbpp_comes_from_the_hub_if_no_file_is_named(monkeypatch):
    import datasets

    def load_dataset(name, config, split):
        assert (name, config, split) == ("google-research-datasets/mbpp", "full", "prompt+test+validation+train")
        return [SQUARES, CLASSES]

    monkeypatch.delenv("MBPP_PATH", raising=False)
    monkeypatch.setattr(hub, "obstacle", lambda *names: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [(p.task_id, p.entry_point) for p in load_problems("mbpp")] == [
        ("MBPP/601", "squares"),
        ("MBPP/602", "total"),
    ]


def test_without_a_file_or_a_network_the_sentence_names_mbpp_path(monkeypatch):
    monkeypatch.delenv("MBPP_PATH", raising=False)
    monkeypatch.setattr(hub, "obstacle", lambda *names: "the hub cannot be reached")
    for source in ("mbpp", "mbpp-test"):
        with pytest.raises(ProblemError, match="the hub cannot be reached.*MBPP_PATH") as caught:
            load_problems(source)
        assert "\n" not in str(caught.value)


def test_a_file_with_none_of_the_test_problems_is_refused(mbpp):
    write(mbpp, SQUARES)
    assert numbers(load_problems("mbpp")) == [601]
    with pytest.raises(ProblemError, match=r"mbpp\.jsonl contains none of MBPP's test problems"):
        load_problems("mbpp-test")


def test_a_repeated_number_is_refused(mbpp):
    write(mbpp, SQUARES, SQUARES)
    with pytest.raises(ProblemError, match="repeats '601'"):
        load_problems("mbpp")
