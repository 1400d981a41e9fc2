"""Tests of the exercises of notebook 02, verifiable rewards."""

import ast
import os
import secrets
import subprocess
import sys
import threading
from typing import Any

from helpers.checks import hints, is_number, shown
from helpers.runtime import CourseError


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
    "The player of v3 is an ordinary process of yours. What may such a process do that a function body seldom needs?",
    "HumanEval comes from a package that is installed here. What else is in its folder, next to the prompts?",
    "While it runs, a function can look up its own name and its own arguments. Which entry of the data set is it?",
)
def exercise_3(my_second_cheat: Any) -> None:
    """Write one function body that v3 accepts for two problems, and that solves neither."""
    from helpers.problems import load_problems
    from helpers.rewards import passes_tests
    from helpers.verifier import isolation_report

    assert isinstance(my_second_cheat, str), (
        f"The cheat is a string, a function's body. This is {shown(my_second_cheat)}."
    )
    problems = load_problems("humaneval")[:2]
    for problem in problems:
        assert _v3(problem, my_second_cheat), f"v3 rejects it for {problem.task_id}."
    layers = isolation_report()
    if not any(name in layers and layers[name].on for name in ("mount namespace", "Landlock")):
        raise CourseError(
            "v3 accepts it. Whether it solves the problems cannot be told here: no layer hides your files."
        )
    earned = passes_tests(
        [problem.prompt for problem in problems],
        [my_second_cheat] * 2,
        test=[problem.test for problem in problems],
        entry_point=[problem.entry_point for problem in problems],
    )
    assert earned == [0.0, 0.0], "v3 accepts it, but it solves a problem, so it is not a cheat."


PLAYER = """
import ast, sys

channel, sys.stdout = sys.stdout, sys.stderr
program, entry_point = ast.literal_eval(input())
names = {}
exec(program, names)
for line in sys.stdin:
    value = names[entry_point](*ast.literal_eval(line))
    print(ascii(value), file=channel, flush=True)
"""


def _v3(problem: Any, completion: str) -> bool:
    """Decide as `v3` in the notebook does, which the reader may have changed. A test compares the two."""

    def candidate(*arguments: Any) -> Any:
        send(arguments)
        assert player.stdout is not None
        return ast.literal_eval(player.stdout.readline(1 << 20))

    def send(value: Any) -> None:
        assert player.stdin is not None
        os.write(player.stdin.fileno(), f"{value!a}\n".encode())

    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-I", "-c", PLAYER], text=True, **streams) as player:
        clock = threading.Timer(5, player.kill)
        clock.start()
        try:
            send((problem.prompt + completion + "\n", problem.entry_point))
            names: dict[str, Any] = {}
            exec(problem.prompt, names)
            names[problem.entry_point] = candidate
            exec(problem.test, names)
            names["check"](candidate)
            return True
        except Exception:
            return False
        finally:
            clock.cancel()
            player.kill()


STEP_TOLERANCE = 4


@hints(
    "Which reward comes near 1 in a way that the two others do not?",
    "A cheat is the same short text for every problem. What does that do to the length of completions?",
    "Take the length at the start and at the end. At which step is the curve halfway between them?",
)
def exercise_4(cheating_run: Any, half_at_step: Any) -> None:
    """Name the run that cheats among three, and the step at which one half of its completions cheat."""
    import pandas as pd

    from helpers.runtime import project_root

    assert cheating_run in ("A", "B", "C"), 'The first answer is "A", "B" or "C".'
    assert cheating_run == "C", f"Run {cheating_run} is not the one. Look at how varied the lengths stay."
    assert is_number(half_at_step), "The second answer is the number of a step."
    curves = pd.read_csv(project_root() / "data/measurements/hacking_curves.csv")
    run = curves[(curves["trained_with"] == "v1") & (curves["seed"] == 2)]
    half = int(run.loc[run["writes_exit"].rolling(3, min_periods=1).mean() >= 0.5, "step"].iloc[0])
    assert abs(half_at_step - half) <= STEP_TOLERANCE, f"The run is right, but not the step: {shown(half_at_step)}."


@hints(
    "The two functions differ for one number only. For which number do `n <= 4` and `n < 4` differ?",
    "The docstring defines the sequence. Compute the number that you need from it.",
    "fib4(4) is the sum of the four numbers before it.",
)
def exercise_5(my_test: Any) -> None:
    """Write a test that the correct function passes and the mutant does not."""
    from helpers.cheats import first_mutant
    from helpers.problems import load_problems

    assert callable(my_test), f"This should be a function, but it is {shown(my_test)}."
    problem = load_problems("humaneval")[46]
    # Both are our own functions, so they may run here.
    correct: dict[str, Any] = {}
    mutant: dict[str, Any] = {}
    exec(problem.prompt + problem.canonical_solution, correct)
    exec(problem.prompt + str(first_mutant(problem)), mutant)
    try:
        my_test(correct[problem.entry_point])
    except AssertionError:
        raise AssertionError("The correct function fails this test.") from None
    try:
        my_test(mutant[problem.entry_point])
    except NotImplementedError:
        raise
    except Exception:
        return
    raise AssertionError("The mutant passes this test too.")
