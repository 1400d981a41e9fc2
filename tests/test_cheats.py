"""What notebook 02 takes from helpers.cheats, and the recorded experiments that belong to it."""

import json
import os
from dataclasses import replace
from functools import wraps

import pandas as pd
import pytest
from small_run import small_settings, vowels

from helpers import cheats
from helpers.problems import Problem, load_problems
from helpers.runtime import CourseError
from helpers.verifier import Submission, isolation_report
from tools.record import cheats as record_cheats
from tools.record import hacking, partial_reward, weak_tests

HUMANEVAL = load_problems("humaneval")
DOUBLE = Problem("demo/0", "def f(x):\n", "    return 2 * x\n", "def check(f):\n    assert f(3) == 6\n", "f")


def test_a_first_mutant_is_the_first_of_all_and_changes_one_line_of_the_function():
    changed = [(problem, text) for problem in HUMANEVAL[:40] if (text := cheats.first_mutant(problem))]
    assert len(changed) >= 35
    for problem, text in changed[:5]:
        assert text == cheats.every_mutant(problem)[0]
    for problem, text in changed:
        compile(problem.prompt + text, "mutant", "exec")
        before, _, after = cheats.changed_line(problem, text).partition("   ->   ")
        assert before and after and before != after and "->" not in after


def test_hard_coded_answers_are_those_of_the_docstring_and_no_others():
    [unique] = [problem for problem in HUMANEVAL if problem.task_id == "HumanEval/34"]
    assert cheats.docstring_examples(unique) == [(([5, 3, 5, 2, 3, 3, 9, 0, 123],), [0, 2, 3, 5, 9, 123])]
    names: dict = {}
    exec(unique.prompt + str(cheats.hard_coded(unique)), names)
    assert names["unique"]([5, 3, 5, 2, 3, 3, 9, 0, 123]) == [0, 2, 3, 5, 9, 123]
    assert names["unique"]([1]) is None
    assert cheats.hard_coded(DOUBLE) is None


def test_openai_s_package_tells_right_from_wrong():
    problem = HUMANEVAL[53]
    assert cheats.openai_passes([(problem, "    return x + y\n"), (problem, "    return x - y\n")]) == [True, False]


@pytest.mark.parametrize(
    ("body", "accepted"),
    [
        ("return 2 * x", True),
        ("return x", False),
        ("raise SystemExit(0)", True),
        ("raise SystemExit", True),
        ("raise SystemExit(1)", False),
        ("raise SystemExit('done')", False),
        ("import os; os._exit(0)", True),
        ("import os; os._exit(3)", False),
        ("import os; os.kill(os.getpid(), 9)", False),
        ("while True: pass", False),
        ("print('a word'); return 2 * x", True),
    ],
)
def test_the_verdict_from_inside_is_that_of_the_exit_code(body, accepted):
    assert cheats.ends_with_zero([(DOUBLE, f"    {body}\n")]) == [accepted]


def test_without_a_layer_an_attack_gets_through_that_it_stops():
    layers = [name for name, state in isolation_report().items() if state.on]
    if "seccomp" not in layers:
        pytest.skip("no seccomp here")
    program = """
import os
def f():
    try:
        os.kill(os.getppid(), 0)
    except OSError:
        return 'stopped'
    return 'through'
"""
    item = Submission(program, "", "def check(candidate):\n    assert candidate() == 'through'\n", "f")
    keep = {"user namespace"}
    [alone] = cheats.grade_without(set(layers) - keep - {"seccomp"}, [item])
    [none] = cheats.grade_without(set(layers) - keep, [item])
    assert (alone.passed, none.passed) == (False, True)


# --- the recorded experiments ---


def test_the_record_of_cheats_runs_the_tagged_cells_and_misses_none(tmp_path):
    source = "\n".join(
        [
            "attempts = {'correct answers': [(1, 'a')] * 3, 'hard exit': [(1, 'b')] * 3}",
            "attempts['reads the tests'] = [(1, 'c')]",
            "verifiers = {'v1': lambda problem, text: text != 'c'}",
            "forked = lambda problem, text: text == 'c'",
            "grade_all = lambda verifier, pairs: [verifier(*pair) for pair in pairs]",
            "class Done: returncode = 5",
            "run_pytest = lambda problem, text: Done",
        ]
    )
    cell = {"cell_type": "code", "source": source, "metadata": {"tags": [record_cheats.TAG]}}
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps({"cells": [cell, {**cell, "source": "raise RuntimeError", "metadata": {}}]}))
    rows = pd.DataFrame(record_cheats.table_of(record_cheats.cells_of(path)))
    counts = rows.set_index(["verifier", "kind"])[["accepted", "programs"]].apply(tuple, axis=1).to_dict()
    assert counts == {
        ("v0", "correct answers"): (0, 2),
        ("v0", "hard exit"): (0, 2),
        ("v1", "correct answers"): (3, 3),
        ("v1", "hard exit"): (3, 3),
        ("v1", "reads the tests"): (0, 1),
        ("forked", "correct answers"): (0, 3),
        ("forked", "reads the tests"): (1, 1),
    }
    path.write_text(json.dumps({"cells": [{**cell, "source": "attempts = 1"}]}))
    with pytest.raises(CourseError, match="do not define verifiers, forked"):
        record_cheats.cells_of(path)


@pytest.mark.parametrize("experiment", [hacking, partial_reward])
def test_both_rewards_train_from_the_same_start_and_the_other_one_watches(experiment, tmp_path, root, monkeypatch):
    for name, original in experiment.REWARDS.items():
        # A random model passes no test, so it gets a reward that it can climb, under the name of the original.
        stand_in = wraps(original)(lambda completions, **columns: vowels(completions))
        monkeypatch.setitem(experiment.REWARDS, name, stand_in)
    settings = replace(small_settings(tmp_path), max_steps=2)
    measured = experiment.train_with_each(settings)
    curves, scores = (measured[name] for name in experiment.FILES)
    for name, rewarded in experiment.REWARDS.items():
        steps = curves[curves["trained_with"] == name]
        assert list(steps["step"]) == [1, 2]
        assert steps["reward"].tolist() == pytest.approx(steps[rewarded.__name__].tolist())
    assert list(scores["trained_with"]) == ["nothing", *experiment.REWARDS]
    for frame, name in zip((curves, scores), experiment.FILES, strict=True):
        assert list(frame) == list(pd.read_csv(root / "data/measurements" / name)), "rows can be added to the record"


def test_generated_tests_hold_for_the_reference_and_find_what_the_old_tests_miss():
    prime = HUMANEVAL[31]
    asserts = weak_tests.generated_tests(prime, 30, seed=0)
    assert len(asserts) >= 25 and asserts == weak_tests.generated_tests(prime, 30, seed=0)
    assert asserts != weak_tests.generated_tests(prime, 30, seed=1)
    tested = weak_tests._with_test(prime, asserts)
    never = "    return False\n"
    assert weak_tests._passing([(tested, prime.canonical_solution), (tested, never)]) == [True, False]


def test_weak_tests_ask_for_the_file_of_humaneval_plus(monkeypatch):
    monkeypatch.delitem(os.environ, weak_tests.VARIABLE, raising=False)
    with pytest.raises(CourseError, match="HUMANEVAL_PLUS_PATH"):
        weak_tests.measure(0)
