import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from random_policy import arithmetic_problems

from helpers.answers import extract_code
from helpers.evaluation import write_samples
from helpers.problems import Problem, columns, load_problems, split_problems, write_problems
from helpers.rewards import verdicts
from helpers.tiny_coder.mutants import mutants

COMMAND = Path(sys.executable).with_name("evaluate_functional_correctness")


def ours(problems, answers):
    owners = [problem for problem, texts in zip(problems, answers, strict=True) for _ in texts]
    return verdicts([p.prompt for p in owners], [text for texts in answers for text in texts], **columns(owners))


def theirs(problems, answers, folder):
    """What the package's own command says: per sample, and what it prints at its end."""
    write_samples(problems, answers, folder / "samples.jsonl")
    write_problems(problems, folder / "problems.jsonl")
    # Its limit is wall-clock time, ours processor time: a generous one, so that a busy machine changes nothing.
    options = [str(folder / "samples.jsonl"), "--problem_file", str(folder / "problems.jsonl"), "--timeout", "8"]
    done = subprocess.run([COMMAND, *options], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    with open(folder / "samples.jsonl_results.jsonl") as file:
        return [json.loads(line) for line in file], done.stdout


def disagreements(graded, scored):
    return [(row, verdict) for row, verdict in zip(scored, graded, strict=True) if row["passed"] != verdict.passed]


def wrong_answers(problem):
    """Some single-operator mutants of the solution; its helpers, and loops that might never end, stay as they are."""
    source = ast.unparse(ast.parse(problem.prompt + problem.canonical_solution))
    if "while" in source:
        return []
    return [text for text in mutants(source)[::12] if helpers(text, problem) == helpers(source, problem)]


def helpers(source, problem):
    return [ast.unparse(node) for node in ast.parse(source).body if getattr(node, "name", "") != problem.entry_point]


@pytest.mark.slow
def test_the_package_agrees_on_canonical_solutions_and_their_mutants(tmp_path):
    problems = load_problems("humaneval")
    answers = [[problem.canonical_solution] for problem in problems]
    for problem, texts in list(zip(problems, answers, strict=True))[::2]:
        chat = [problem.prompt + problem.canonical_solution, *wrong_answers(problem)]
        texts += [f"The function:\n```python\n{text}\n```\nIt works." for text in chat]
    answers[0].append("    while True:\n        pass\n")
    graded = ours(problems, answers)
    scored, _ = theirs(problems, answers, tmp_path)
    assert disagreements(graded, scored) == []
    assert sum(row["passed"] for row in scored) > 164 + 82  # and some mutants, which no test catches
    assert sum(row["result"].startswith("failed") for row in scored) > 100
    assert [row["result"] for row in scored].count("timed out") >= 1


def test_where_the_two_differ_an_answer_replaces_a_helper_that_the_tests_call(tmp_path):
    (problem,) = [problem for problem in load_problems("humaneval") if problem.task_id == "HumanEval/38"]
    nothing_done = "def encode_cyclic(s):\n    return s\n\n\ndef decode_cyclic(s):\n    return s\n"
    (row,), _ = theirs([problem], [[nothing_done]], tmp_path)
    assert row["passed"]  # its tests decode what the answer's own helper encoded
    assert not ours([problem], [[nothing_done]])[0].passed  # and here what the prompt's helper did


@pytest.mark.slow
def test_the_package_agrees_on_what_the_bundled_model_writes(tmp_path):
    from helpers.evaluation import evaluate
    from helpers.policy import load_policy, sample_completions

    model, tokenizer = load_policy("data/tiny_coder")
    problems = split_problems(load_problems("tiny"))[1][::6]
    measured = evaluate(model, tokenizer, problems, num_samples=4, max_completion_length=56)
    scored, printed = theirs(problems, measured.completions, tmp_path)
    assert [row["passed"] for row in scored] == [passed for samples in measured.passed for passed in samples]
    assert 0.2 < sum(row["passed"] for row in scored) / len(scored) < 0.8
    said = float(re.search(r"'pass@1': (?:np\.float64\()?([\d.e-]+)", printed)[1])
    assert said == pytest.approx(measured.pass_at(1).mean())

    others = load_problems("humaneval")[::6]  # far too hard for it: mostly programs that fail in many ways
    answers = sample_completions(
        model, tokenizer, [problem.prompt for problem in others], num_samples=2, max_completion_length=64
    )
    scored, _ = theirs(others, answers, tmp_path)
    assert disagreements(ours(others, answers), scored) == []


PROBLEM = Problem(
    task_id="t/0",
    prompt='import math\n\n\ndef twice(x: int) -> int:\n    """Return 2 * x."""\n',
    canonical_solution="    return 2 * x\n",
    test="def check(candidate):\n    assert candidate(4) == 8\n",
    entry_point="twice",
)
ANSWERS = {
    "a body": "    return 2 * x\n",
    "a body and chatter": "    return 2 * x\n\nThis doubles it.",
    "a whole function": "def twice(x):\n    return 2 * x\n",
    "a chat answer": "Sure!\n```python\ndef twice(x):\n    return math.floor(2 * x)\n```\nDone.",
    "a fenced body": "```python\nreturn 2 * x\n```",
    "an end token": "    return 2 * x\n<|endoftext|>def other():",
    "carriage returns": "    y = x\r\n    return 2 * y\r\n",
    "no Python": "I do not know.",
    "nothing": "",
}


def written(problem, answer, folder):
    write_samples([problem], [[answer]], folder / "s.jsonl")
    (row,) = [json.loads(line) for line in (folder / "s.jsonl").read_text(encoding="ascii").splitlines()]
    return row["completion"]


def passes_as_the_package_runs_it(problem, completion):
    names = {}
    try:
        exec(problem.prompt + completion + "\n" + problem.test, names)
        names["check"](names["twice"])
    except (SyntaxError, AssertionError):
        return False
    return True


@pytest.mark.parametrize("name", ANSWERS)
def test_what_follows_the_prompt_is_the_program_that_is_graded(name, tmp_path):
    completion = written(PROBLEM, ANSWERS[name], tmp_path)
    assert PROBLEM.prompt + completion == extract_code(PROBLEM.prompt, ANSWERS[name], "twice")
    right = passes_as_the_package_runs_it(PROBLEM, completion)
    assert right == (name not in ("no Python", "nothing"))
    assert right == ours([PROBLEM], [[ANSWERS[name]]])[0].passed


@pytest.mark.parametrize(
    "prompt",
    [
        PROBLEM.prompt,
        "def twice(x):\n",  # needs a body before anything can follow
        "from typing import List\r\n\r\n\r\ndef twice(x):\r\n\t'''Doubles.'''\r\n",
        "def twice(x):  # the signature alone",
    ],
)
def test_a_future_import_is_left_out(prompt, tmp_path):
    problem = Problem(**vars(PROBLEM) | {"prompt": prompt})
    answer = "from __future__ import annotations\n\ndef twice(x: int) -> 'It''s':\n    return 2 * x\n"
    completion = written(problem, answer, tmp_path)
    assert passes_as_the_package_runs_it(problem, completion) and "__future__" not in completion


def test_an_answer_to_a_prompt_that_is_not_python_stays_as_it_is(tmp_path):
    problem = Problem(**vars(PROBLEM) | {"prompt": "Please write\ndef twice(x): ..."})
    answer = "def twice(x):\n    return 2 * x\n"
    assert written(problem, answer, tmp_path) == answer


def test_the_file_has_one_line_per_sample_and_nothing_but_the_packages_fields(tmp_path):
    problems = arithmetic_problems()[:2]
    write_samples(
        problems, [["    return a + b\n", "    return '\u00e4\ud800'\n"], ["    return a - b\n"]], tmp_path / "s.jsonl"
    )
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text(encoding="ascii").splitlines()]
    assert [list(row) for row in rows] == [["task_id", "completion"]] * 3
    assert [row["task_id"] for row in rows] == ["arithmetic/add", "arithmetic/add", "arithmetic/sub"]
    assert rows[0]["completion"] == "    return a + b\n"
    with pytest.raises(ValueError):
        write_samples(problems, [["    return a + b\n"]], tmp_path / "s.jsonl")
