"""Notebook 02: which wrong programs pass HumanEval's tests, and would generated inputs have found them?

The wrong programs are mutants of HumanEval's own solutions that pass its tests. HumanEval+ (arXiv 2305.01210) judges
which of them are wrong: name its file, in HumanEval's format, in the environment variable HUMANEVAL_PLUS_PATH. Then
each mutant meets a differential test: inputs that Hypothesis draws, with the answers of the reference solution.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from helpers.cheats import every_mutant
from helpers.problems import Problem, load_problems
from helpers.runtime import CourseError
from helpers.verifier import Submission, grade_programs

FILES = ("weak_tests.csv",)
COUNTS = (10, 100)  # generated inputs
LARGEST = 1000  # no generated number is larger than this, unless the tests have a larger one
SETTINGS = {"generated inputs": COUNTS, "largest number": LARGEST}
SECONDS = 0.1  # that the reference solution may take for one input
VARIABLE = "HUMANEVAL_PLUS_PATH"


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Return one row for each mutant that passes HumanEval's tests: which other tests find it."""
    if not os.environ.get(VARIABLE):
        raise CourseError(f"Name HumanEval+'s file in {VARIABLE}: https://github.com/evalplus/humanevalplus_release.")
    plus = {problem.task_id: problem for problem in load_problems(os.environ[VARIABLE])}
    problems = [problem for problem in load_problems("humaneval") if problem.task_id in plus]
    sound = _passing([(plus[problem.task_id], problem.canonical_solution) for problem in problems])
    problems = [problem for problem, holds in zip(problems, sound, strict=True) if holds]
    numbered = [(problem, *pair) for problem in problems for pair in enumerate(every_mutant(problem))]
    pairs = [(problem, text) for problem, _, text in numbered]
    holding = _passing(pairs)
    survivors = [pair for pair, holds in zip(pairs, holding, strict=True) if holds]
    rows = pd.DataFrame(
        {
            "seed": seed,
            "task_id": [problem.task_id for problem, _ in survivors],
            "mutant": [number for (_, number, _), holds in zip(numbered, holding, strict=True) if holds],
            "humaneval_plus": _found([(plus[problem.task_id], text) for problem, text in survivors]),
        }
    )
    tests = {problem: generated_tests(problem, max(COUNTS), seed) for problem in dict.fromkeys(p for p, _ in survivors)}
    for count in COUNTS:
        asked = [(_with_test(problem, tests[problem][:count]), text) for problem, text in survivors]
        rows[f"generated_{count}"] = _found(asked)
    return {FILES[0]: rows}


def generated_tests(problem: Problem, count: int, seed: int) -> list[str]:
    """Return up to `count` asserts about inputs that Hypothesis draws, with the answers of the reference solution.

    The inputs are of the types, and about the size, of those in the problem's own tests. Inputs on which the reference
    raises, or takes long, are left out.
    """
    inputs = _drawn(_strategy(_own_inputs(problem)), count, seed)
    source = problem.prompt + problem.canonical_solution
    names: dict[str, Any] = {}
    # This is the data set's own solution, not a completion.
    exec(source, names)
    asserts = []
    for arguments in inputs:
        try:
            with _at_most(SECONDS):
                answer = repr(names[problem.entry_point](*eval(repr(arguments))))
            eval(answer)
        except Exception:
            continue
        asserts.append(f"assert same(candidate(*{arguments!r}), {answer})")
    return asserts


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this block after so many seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _own_inputs(problem: Problem) -> list[tuple[Any, ...]]:
    """Return the arguments with which the problem's own tests call the function."""
    asked: list[tuple[Any, ...]] = []
    names: dict[str, Any] = {}
    exec(problem.prompt + problem.canonical_solution + "\n" + problem.test, names)
    reference = names[problem.entry_point]

    def candidate(*arguments: Any) -> Any:
        asked.append(eval(repr(arguments)))
        return reference(*arguments)

    names["check"](candidate)
    return asked


def _strategy(examples: Sequence[Any]) -> st.SearchStrategy:
    """Return a strategy for values like the examples: the same types, and numbers and lengths up to twice as large."""
    kinds = {type(example) for example in examples}
    if len(kinds) != 1:
        return st.one_of([_strategy([e for e in examples if type(e) is kind]) for kind in sorted(kinds, key=str)])
    [kind] = kinds
    if kind is bool:
        return st.booleans()
    if kind in (int, float):
        low, high = min(examples), max(examples)
        low, high = (2 * low if low < 0 else 0 if low > 1 else low), min(2 * high, max(LARGEST, high))
        if kind is int:
            return st.integers(low, max(low, high))
        return st.floats(low, max(low, high), allow_nan=False).map(lambda value: round(value, 2))
    if kind is str:
        letters = sorted(set("".join(examples)))
        longest = min(30, 2 * max(map(len, examples)))
        return st.text(st.sampled_from(letters) if letters else st.characters(codec="ascii"), max_size=longest)
    if kind is tuple and len(set(map(len, examples))) == 1:
        return st.tuples(*map(_strategy, zip(*examples, strict=True)))
    if kind in (list, tuple):
        items = [item for example in examples for item in example]
        longest = min(20, 2 * max(map(len, examples)))
        return st.lists(_strategy(items), max_size=longest).map(kind) if items else st.just(kind())
    if kind is dict:
        keys, values = (
            [part for example in examples for part in getattr(example, name)()] for name in ("keys", "values")
        )
        return st.dictionaries(_strategy(keys), _strategy(values), max_size=8) if keys else st.just({})
    return st.sampled_from(list(examples))


def _drawn(strategy: st.SearchStrategy, count: int, seed: int) -> list[Any]:
    """Return what Hypothesis draws for `count` examples. The same seed draws the same."""
    drawn: list[Any] = []

    @seeded(seed)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(strategy)
    def collect(value: Any) -> None:
        drawn.append(value)

    collect()
    return drawn


SAME = """
def same(one, other):
    if isinstance(one, float) or isinstance(other, float):
        return type(one) in (int, float) and abs(one - other) <= 1e-6 * max(1, abs(other))
    return one == other
"""


def _with_test(problem: Problem, asserts: Sequence[str]) -> Problem:
    body = "".join(f"    {line}\n" for line in asserts) or "    pass\n"
    test = f"{SAME}\ndef check(candidate):\n{body}"
    return Problem(problem.task_id, problem.prompt, problem.canonical_solution, test, problem.entry_point)


def _passing(pairs: Sequence[tuple[Problem, str]]) -> list[bool]:
    items = [Submission(p.prompt + text + "\n", p.prompt, p.test, p.entry_point) for p, text in pairs]
    return [verdict.passed for verdict in grade_programs(items, modules=("numpy",), timeout=10.0)]


def _found(pairs: Sequence[tuple[Problem, str]]) -> list[int]:
    return [int(not passed) for passed in _passing(pairs)]
