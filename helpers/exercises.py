"""Check the exercises of the notebooks, and give hints. Neither shows an answer.

The stub of an exercise contains the gap `___` or raises NotImplementedError. The stub and its `check` share a cell, so
every name that `check` needs exists. `check` catches the errors of an answer, so Run All never stops at an exercise.
If COURSE_STRICT is 1, `check` raises every verdict except "correct." as an AssertionError. The tests and hints are in
`helpers.checks`.
"""

import importlib
import inspect
import os
import textwrap
import traceback
from types import CodeType
from typing import Any

from helpers.runtime import CourseError


class Blank:
    """The gap to fill in. Arithmetic with it stays blank, so `answer = ___ / 8` runs. It equals nothing else."""

    def __repr__(self) -> str:
        """Return the gap as the reader sees it, with a word that it is their turn."""
        return "___ (your turn)"

    def _stay_blank(self, *_: Any, **__: Any) -> "Blank":
        return self

    def _no_value(self, *_: Any) -> Any:
        raise NotImplementedError

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _stay_blank
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = _stay_blank
    __neg__ = __abs__ = __round__ = __call__ = __getitem__ = _stay_blank
    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __float__ = __index__ = __len__ = __iter__ = _no_value


___ = Blank()
_HINTS_GIVEN: dict[str, int] = {}


def check(name: str, *answers: Any) -> None:
    """Show a verdict on the answers to one exercise: "correct.", "not yet." and why, or "not answered yet."

    `name` is the notebook and the exercise, as in "03.2". The answers are values or functions, in the order of the
    exercise. Raises AssertionError if COURSE_STRICT is 1 and the verdict is not "correct."

    >>> check("04.1", ___)
    ○ Exercise 1: not answered yet. Fill in the gap `___`, then run this cell. For
    a hint: `hint("04.1")`.
    >>> check("04.1", lambda n, c, k: 1 - (1 - c / n) ** k)  # doctest: +ELLIPSIS
    ✘ Exercise 1: not yet. ...
    """
    mark, verdict, text = _verdict(name, answers)
    if os.environ.get("COURSE_STRICT") == "1" and mark != "✔":
        raise AssertionError(f"{name}: {verdict} {text}")
    _show(f"{mark} Exercise {str(name).rpartition('.')[2]}: {verdict}", text)


def hint(name: str) -> None:
    """Show the next hint for an exercise. After the last hint, start again with the first."""
    try:
        hints = _test_of(name).hints
    except CourseError as error:
        return _show("No hint.", str(error))
    number = _HINTS_GIVEN[name] = _HINTS_GIVEN.get(name, 0) % len(hints) + 1
    last = " This is the last hint. The solution is folded below the exercise." if number == len(hints) else ""
    _show(f"Hint {number} of {len(hints)}.", hints[number - 1] + last)


def _verdict(name: str, answers: tuple[Any, ...]) -> tuple[str, str, str]:
    """Return the mark, the verdict, and a sentence that explains the verdict."""
    try:
        test = _test_of(name)
        needed = inspect.signature(test).parameters
        if len(answers) != len(needed):
            raise CourseError(f'This exercise is checked with `check("{name}", {", ".join(needed)})`.')
        if _holds_blank(answers):
            raise NotImplementedError
        test(*answers)
    except NotImplementedError:
        return "○", "not answered yet.", f'Fill in the gap `___`, then run this cell. For a hint: `hint("{name}")`.'
    except CourseError as error:
        return "✘", "not checked.", str(error)
    except AssertionError as error:
        return "✘", "not yet.", str(error) or "An assertion in your code failed."
    except NameError as error:
        missing = f"`{error.name}` is not defined{_line_of(answers, error)}."
        return "✘", "not yet.", f"{missing} Is it misspelt, or defined in a cell above that has not run?"
    except (Exception, SystemExit) as error:
        said = " ".join(f"{type(error).__name__}: {error}".replace("`", "'").split())
        return "✘", "not yet.", f"Your code raised `{said}`{_line_of(answers, error)}."
    return "✔", "correct.", ""


def _test_of(name: str) -> Any:
    """Return the function of `helpers.checks` that tests the answers. Its `hints` are a tuple of sentences."""
    notebook, _, number = str(name).partition(".")
    try:
        return getattr(importlib.import_module(f"helpers.checks.notebook_{notebook}"), f"exercise_{number}")
    except (ModuleNotFoundError, AttributeError):
        raise CourseError(f'There is no exercise `{name}`. Names are notebook and exercise, as in "03.2".') from None


def _show(title: str, text: str) -> None:
    """Show a title and a text as Markdown with plain text as its fallback. Outside a notebook, print the plain text."""
    from IPython import display, get_ipython

    plain = textwrap.fill(f"{title} {text}", 79, break_long_words=False, break_on_hyphens=False)
    if (shell := get_ipython()) is None:
        return print(plain)
    # The verdict tells the reader to call hint(), so it must work without an import.
    shell.user_ns.setdefault("hint", hint)
    display.display({"text/markdown": f"**{title}** {text}".rstrip(), "text/plain": plain}, raw=True)


def _holds_blank(answer: Any) -> bool:
    """Return whether a gap is left: as a value, inside a list, tuple or dictionary, or named in a function's code."""
    code = getattr(answer, "__code__", answer)
    if isinstance(code, CodeType):
        return "___" in code.co_names or any(map(_holds_blank, code.co_consts))
    if isinstance(answer, dict | list | tuple):
        return any(map(_holds_blank, answer.values() if isinstance(answer, dict) else answer))
    return isinstance(answer, Blank)


def _line_of(answers: tuple[Any, ...], error: BaseException) -> str:
    """Return the line of the reader's code that raised the error, as in " (line 3 of the cell)", or "" if none did."""
    files = {getattr(getattr(answer, "__code__", None), "co_filename", None) for answer in answers}
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" (line {lines[-1]} of the cell)" if lines else ""
