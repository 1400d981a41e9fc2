"""Reward functions for TRL: from completions to programs, verdicts and rewards.

`helpers.answers` makes the program and `helpers.verifier` grades it. `passes_tests` turns the verdict into 1.0 or 0.0,
and `fraction_of_tests` into the fraction of the asserts that passed. `compiles` looks at the text alone.
`random_reward` and `constant_reward` are controls: train with one of them on the same problems, model and settings, and
you see what changes without any help of the tests.

GRPOTrainer takes several functions. It multiplies the rewards of each by its entry in GRPOConfig's `reward_weights`
(1.0 by default) and adds them up, and None counts as nothing. The logs name each function by its `__name__`.
"""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial, update_wrapper
from typing import Any

from helpers import verifier
from helpers.answers import extract_code, is_python
from helpers.runtime import CourseError
from helpers.verifier import Outcome, Submission, Verdict, grade_programs

__all__ = ["BrokenTestsError", "GradingError", "compiles", "constant_reward", "extract_code", "fraction_of_tests"]
__all__ += ["passes_tests", "random_reward", "reward_of", "seeded", "verdicts"]

_WARNED: set[str] = set()  # of problems that cannot be graded, so that each is named once in a run


class BrokenTestsError(CourseError, verifier.BrokenTestsError):
    """A problem whose own prompt or tests do not run, whatever program is graded."""


class GradingError(CourseError, verifier.GradingError):
    """Grading does not work on this machine, or did not give a verdict."""


def passes_tests(
    prompts: Sequence,
    completions: Sequence,
    *,
    test: Sequence[str | None],
    entry_point: Sequence[str | None],
    code_prompt: Sequence[str | None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """Reward 1.0 if the program passes its problem's tests and 0.0 if it does not. None if there is no verdict.

    This is a reward function for TRL's GRPOTrainer: `test`, `entry_point` and `code_prompt` are columns of the data
    set, with one entry per completion. The program is made from `code_prompt`, the problem's own prompt, and the
    completion. If a row has no `code_prompt`, its prompt is used, which must then be a string. A row without tests is
    of another kind and gets None, and so does a row whose problem cannot be graded, with one warning per problem that
    names its `task_id` if there is such a column. Raises ValueError for columns that do not fit, TypeError for settings
    of the grader, which only `verdicts` takes, BrokenTestsError if none of the rows can be graded because of their
    tests, and GradingError if grading does not work on this machine.

    >>> tests = "def check(candidate):\\n    assert candidate(2) == 4\\n"
    >>> answers = ["    return 2 * x\\n", "    return x + 1\\n"]
    >>> passes_tests(["def double(x):\\n"] * 2, answers, test=[tests] * 2, entry_point=["double"] * 2)
    [1.0, 0.0]
    """
    _refuse_settings(kwargs)
    columns: dict[str, Any] = {"test": test, "entry_point": entry_point, "code_prompt": code_prompt}
    graded = verdicts(prompts, completions, **columns, task_id=kwargs.get("task_id"))
    return [None if verdict is None else reward_of(verdict) for verdict in graded]


def fraction_of_tests(
    prompts: Sequence,
    completions: Sequence,
    *,
    test: Sequence[str | None],
    entry_point: Sequence[str | None],
    code_prompt: Sequence[str | None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """Reward with the fraction of the asserts that pass, each judged by itself. None if there is no verdict.

    Columns and errors are as for `passes_tests`. An assert that is never reached does not count, and a program that
    does not load earns 0.0. One that ends itself or runs out of time or memory keeps what passed until then and fails
    the rest. One that forges a message earns nothing.

    >>> tests = "def check(candidate):\\n    assert candidate(2) == 4\\n    assert candidate(3) == 6\\n"
    >>> fraction_of_tests(["def double(x):\\n"], ["    return x + 2\\n"], test=[tests], entry_point=["double"])
    [0.5]
    """
    _refuse_settings(kwargs)
    columns: dict[str, Any] = {"test": test, "entry_point": entry_point, "code_prompt": code_prompt}
    graded = verdicts(prompts, completions, **columns, task_id=kwargs.get("task_id"), each_assert=True)
    return [verdict.share if verdict is not None and verdict.graded else None for verdict in graded]


def compiles(
    prompts: Sequence,
    completions: Sequence,
    *,
    entry_point: Sequence[str | None],
    code_prompt: Sequence[str | None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """Reward 1.0 if the program parses as Python and 0.0 if it does not. Nothing is run.

    Columns and errors are as for `passes_tests`. An empty body is Python too, so use this only as a small part of a
    reward.

    >>> compiles(["def double(x):\\n"] * 2, ["    return 2 * x\\n", "Sorry, no."], entry_point=["double"] * 2)
    [1.0, 0.0]
    """
    rows = _submissions(prompts, completions, entry_point, code_prompt)
    return [None if row is None else float(is_python(row.program)) for row in rows]


def random_reward(
    prompts: Sequence, completions: Sequence, *, seed: int = 0, trainer_state: object = None, **kwargs: Any
) -> list[float | None]:
    """Reward 1.0 or 0.0 by the toss of a coin, whatever the completion is (as in arXiv 2506.10947).

    A toss depends on the seed, the step, the place in the batch, the prompt and the completion, but on no random
    stream. So a resumed run gets the same rewards as an uninterrupted one. Raises ValueError if there are not as many
    prompts as completions.

    >>> random_reward(["a"] * 4, ["b"] * 4, seed=1)
    [0.0, 1.0, 0.0, 1.0]
    """
    step = getattr(trainer_state, "global_step", 0)
    cases = [repr((seed, step, place, *pair)) for place, pair in enumerate(zip(prompts, completions, strict=True))]
    return [float(hashlib.sha256(case.encode()).digest()[0] % 2) for case in cases]


def constant_reward(prompts: Sequence, completions: Sequence, **kwargs: Any) -> list[float | None]:
    """Reward 1.0 for every completion. Every advantage is 0, so nothing can be learned.

    >>> constant_reward(["a", "a"], ["b", "c"])
    [1.0, 1.0]
    """
    return [1.0] * len(completions)


def seeded(reward: Callable[..., Sequence[float | None]], seed: int) -> Callable[..., Sequence[float | None]]:
    """Bind `seed` to a reward function that takes one, and keep its name. Return any other function as it is.

    >>> seeded(random_reward, 1)(["a"] * 4, ["b"] * 4)
    [0.0, 1.0, 0.0, 1.0]
    """
    if "seed" not in inspect.signature(reward).parameters:
        return reward
    return update_wrapper(partial(reward, seed=seed), reward)


def verdicts(
    prompts: Sequence,
    completions: Sequence,
    *,
    test: Sequence[str | None],
    entry_point: Sequence[str | None],
    code_prompt: Sequence[str | None] | None = None,
    task_id: Sequence[str | None] | None = None,
    **limits: Any,
) -> list[Verdict | None]:
    """Grade each completion and return how it ended and why, or None for a row without tests.

    Columns, warnings and errors are as for `passes_tests`, which is made from this. `limits` are keyword arguments of
    `helpers.verifier.grade_programs`.
    """
    rows = _submissions(prompts, completions, entry_point, code_prompt, test)
    if task_id is not None:
        _check_column("task_id", task_id, len(rows))
    try:
        graded = iter(grade_programs([row for row in rows if row is not None], **limits))
    except verifier.GradingError as error:
        raise GradingError(str(error)) from error
    results = [None if row is None else next(graded) for row in rows]
    names = [row and row.entry_point for row in rows] if task_id is None else task_id
    _report_broken_problems(results, names)
    return results


def reward_of(verdict: Verdict) -> float | None:
    """Return 1.0 for passed, 0.0 for every other verdict on a program, and None if the fault is not the program's.

    >>> reward_of(Verdict(Outcome.TIMEOUT, "")), reward_of(Verdict(Outcome.INFRASTRUCTURE_FAILED, ""))
    (0.0, None)
    """
    return float(verdict.passed) if verdict.graded else None


def _refuse_settings(columns: dict[str, Any]) -> None:
    """Refuse what looks like a setting of the grader. Any other column may be there, and is not used."""
    settings = inspect.signature(grade_programs).parameters.keys() - {"items"}
    if found := sorted(settings & columns.keys()):
        raise TypeError(
            f"'{found[0]}' is a setting of the grader, which a reward function does not take. To change it, make a "
            f"reward function of your own with verdicts(..., {found[0]}=...) and reward_of. If it is a column of your "
            "data set, rename the column."
        )


def _report_broken_problems(results: Sequence[Verdict | None], names: Sequence[str | None]) -> None:
    """Warn of each problem that cannot be graded. Raise BrokenTestsError if there is nothing else in the batch."""
    broken = {
        name: f"The problem {name} cannot be graded: {verdict.message}."
        for name, verdict in zip(names, results, strict=True)
        if verdict is not None and verdict.outcome is Outcome.BROKEN_TESTS
    }
    if results and all(verdict is not None and verdict.outcome is Outcome.BROKEN_TESTS for verdict in results):
        raise BrokenTestsError(next(iter(broken.values())))
    for message in broken.values():
        if message not in _WARNED:
            _WARNED.add(message)
            warnings.warn(f"{message} Its completions get no reward (None).", stacklevel=4)


def _submissions(
    prompts: Sequence,
    completions: Sequence,
    entry_point: Sequence[str | None],
    code_prompt: Sequence[str | None] | None,
    test: Sequence[str | None] | None = None,
) -> list[Submission | None]:
    """Make one submission per completion, None for a row without a problem, once all columns fit."""
    size = len(completions)
    columns = {
        "prompts": prompts,
        "test": [""] * size if test is None else test,
        "entry_point": entry_point,
        "code_prompt": [None] * size if code_prompt is None else code_prompt,
    }
    for name, column in columns.items():
        _check_column(name, column, size)
    rows = zip(completions, *columns.values(), strict=True)
    return [_submission(*row) for row in rows]


def _check_column(name: str, column: Sequence, size: int) -> None:
    if isinstance(column, str) or len(column) != size:
        found = "one string" if isinstance(column, str) else len(column)
        raise ValueError(f"'{name}' must contain one entry for each of the {size} completions, not {found}.")
    wrong = [entry for entry in column if entry is not None and not isinstance(entry, str)]
    if wrong and name != "prompts":
        raise ValueError(f"'{name}' must contain strings or None, not {type(wrong[0]).__name__}.")


def _submission(
    completion: object, prompt: object, test: str | None, entry_point: str | None, code_prompt: str | None
) -> Submission | None:
    # In a mixed data set, rows of another kind have None in the columns of this one.
    if test is None or entry_point is None:
        return None
    if code_prompt is None:
        if not isinstance(prompt, str):
            raise ValueError(
                "A conversational prompt does not say where the code begins: give the data set a 'code_prompt' column "
                "with each problem's own prompt."
            )
        code_prompt = prompt
    text = _text(completion)
    if isinstance(prompt, str) and prompt.rstrip().endswith("<think>"):
        # The prompt opened a thought, and the completion begins inside it.
        text = "<think>" + text
    return Submission(extract_code(code_prompt, text, entry_point), code_prompt, test, entry_point)


def _text(completion: object) -> str:
    """Return the text of a completion: a string, or the last message of the assistant's in conversational form."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence):
        for message in reversed(completion):
            if isinstance(message, dict) and message.get("role") == "assistant":
                return _message_text(message.get("content"))
        if not completion:
            return ""
    raise ValueError(
        "A completion must be a string or a list of messages with one from the 'assistant', "
        f"not {type(completion).__name__}."
    )


def _message_text(content: object) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    # A message that only calls tools has no text.
    return content if isinstance(content, str) else ""
