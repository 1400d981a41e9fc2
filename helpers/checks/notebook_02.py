"""Tests of the exercises of notebook 02, verifiable rewards."""

import secrets
import subprocess
import sys
from typing import Any

from helpers.checks import hints, is_number, same, shown

VERDICTS = [1, 0, 0, 1, 0, 1]
"""The rewards of `passes_tests` for the six completions of exercise 3. A test compares them."""
END = 0
"""The id of the end token in exercise 4."""


@hints(
    "The program needs four parts: the prompt, the completion, the test, and something that starts the test.",
    "The test only defines a function `check`. Call it with the function that was written, by its name.",
    "A completion need not end with a line break. And which exit codes mean that nothing went wrong?",
)
def exercise_1(my_v1: Any) -> None:
    """Write a verifier that trusts the exit code."""
    from helpers.problems import load_problems

    problems = load_problems("humaneval")
    first, second = problems[:2]
    # The test of this one starts without a line break.
    glued = next(problem for problem in problems if not problem.test.startswith("\n"))
    chatty = "    import sys\n    print('a warning', file=sys.stderr)\n    print('done')\n" + first.canonical_solution
    cases = (
        (True, first, first.canonical_solution, "This is the data set's own solution."),
        (True, second, second.canonical_solution, "This is the data set's own solution."),
        (False, first, "    return None", "This function returns `None`. Does your program call `check`?"),
        (False, second, "    return (", "This is not valid Python."),
        (True, glued, glued.canonical_solution.rstrip(), "This correct solution does not end with a line break."),
        (True, first, chatty, "This correct solution also prints something."),
        (False, first, "    import os\n    os._exit(5)", "This program ends itself with exit code 5."),
        (
            False,
            first,
            "    import os\n    os.kill(os.getpid(), 9)",
            "This program kills itself. What is its exit code?",
        ),
    )
    assert callable(my_v1), f"This should be a function, but it is {shown(my_v1)}."
    for accepted, problem, completion, why in cases:
        got = my_v1(problem, completion)
        assert got in (True, False), f"It returned {shown(got)} instead of `True` or `False`."
        assert got == accepted, f"{problem.task_id}: it returned {shown(got)}. {why}"


@hints(
    "Read a test of HumanEval. What is the last operation before it decides?",
    "In `a == b`, Python asks `a` first. Your function decides what `a` is.",
    "A class can define `__eq__`. What would an object be like that equals everything?",
)
def exercise_2(my_cheat: Any) -> None:
    """Write one function body that v2 accepts for two problems, and that solves neither."""
    from helpers.problems import load_problems
    from helpers.rewards import passes_tests

    problems = load_problems("humaneval")[:2]
    assert isinstance(my_cheat, str), f"The cheat is a string, a function's body. This is {shown(my_cheat)}."
    for problem in problems:
        assert _v2(problem, my_cheat), f"v2 rejects it for {problem.task_id}."
    earned = passes_tests(
        [problem.prompt for problem in problems],
        [my_cheat] * 2,
        test=[problem.test for problem in problems],
        entry_point=[problem.entry_point for problem in problems],
    )
    assert earned == [0.0, 0.0], "v2 accepts it, but it solves a problem, so it is not a cheat."


def _v2(problem: Any, completion: str) -> bool:
    """Decide as `v2` in the notebook does, which the reader may have changed. A test compares the two."""
    secret = secrets.token_hex(8)
    program = f"{problem.prompt}{completion}\n{problem.test}\ncheck({problem.entry_point})\nprint('{secret}')\n"
    try:
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=3)
    # A ValueError means that the program contains a null byte.
    except (subprocess.TimeoutExpired, ValueError):
        return False
    return done.stdout.split("\n")[-2:-1] == [secret]


@hints(
    "For each completion, ask two questions. Which program is made from it? What does that program return?",
    "Prose and fences around the code are removed. Printing is allowed. Is 0 positive, and is it in the test?",
    "The test compares with `==`. Which of these can equal a list: a list, a tuple, an iterator?",
)
def exercise_3(scores: Any) -> None:
    """Predict which of six completions score 1."""
    scores = scores.tolist() if hasattr(scores, "tolist") else scores
    is_six = isinstance(scores, list | tuple) and len(scores) == len(VERDICTS)
    assert is_six and all(score in (0, 1) for score in scores), "Give a list of six numbers, each 0 or 1."
    wrong = sum(score != verdict for score, verdict in zip(scores, VERDICTS, strict=True))
    assert not wrong, f"{wrong} of the six {'is' if wrong == 1 else 'are'} wrong."


@hints(
    "Look at the ids, not at the text. How does a completion end that was not cut off?",
    "The length alone does not tell: a completion can end by itself exactly at the limit.",
    "Return a list with one number for each list in `completion_ids`.",
)
def exercise_4(punish_truncation: Any) -> None:
    """Write a reward function that gives -1.0 to truncated completions and 0.0 to the others."""
    cases: tuple[tuple[list[list[int]], list[float], str], ...] = (
        ([[5, 6, END], [5, 6, 7, 8]], [0.0, -1.0], "The first ended by itself, the second was cut off."),
        ([[5, 6, 7, END]], [0.0], "It ended by itself, exactly at the limit."),
        ([[5, END, 7, 8]], [-1.0], "The end token has to be the last one."),
        ([[9, 8, 7, 6], [END], [9, END], [1, 2, 3, 4]], [-1.0, 0.0, 0.0, -1.0], "Two of the four were cut off."),
        ([], [], "There is no completion, so there is no number."),
    )
    assert callable(punish_truncation), f"This should be a function, but it is {shown(punish_truncation)}."
    for ids, expected, why in cases:
        # TRL calls a reward function with keyword arguments only, and with more columns than it needs.
        texts = ["some text"] * len(ids)
        got = punish_truncation(prompts=texts, completions=texts, completion_ids=[*map(list, ids)], task_id=texts)
        rewards = got.tolist() if hasattr(got, "tolist") else got
        assert isinstance(rewards, list | tuple), (
            f"Return a list with one number for each completion, not {shown(got)}."
        )
        assert all(map(is_number, rewards)), f"Every reward is a number, but this returned {shown(got)}."
        assert same(rewards, expected), f"For the ids {shown(ids)} it returned {shown(got)}. {why}"
