"""check() for the exercises: it prints a verdict and never raises, so that Run All goes through.

A stub holds `___` where something is missing, or raises NotImplementedError. A test is any callable that takes the
answer and raises AssertionError with a hint. COURSE_STRICT=1 turns every verdict but "correct." into an AssertionError.
"""

import math
import os
import traceback
from collections.abc import Callable
from types import CodeType
from typing import Any

Test = Callable[[Any], None]


class Blank:
    """The gap to fill in. Arithmetic with it stays blank, so that `answer = ___ / 8` runs; its value is nowhere."""

    def __repr__(self) -> str:
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


def check(name: str, answer: Any, *tests: Test) -> None:
    """Print "not answered yet", "not yet. <why>" or "correct." for an answer, a value or a function.

    Raises AssertionError instead of printing anything but "correct." where COURSE_STRICT is 1.
    """
    verdict = _verdict(answer, tests)
    if os.environ.get("COURSE_STRICT") == "1" and verdict != "correct.":
        raise AssertionError(f"{name}: {verdict}")
    print(f"{name}: {verdict}")


def equals(expected: Any, hint: str, tolerance: float = 1e-6) -> Test:
    """A test of a value: numbers within the tolerance, also inside lists and tensors. The hint does not tell it."""

    def test(answer: Any) -> None:
        assert _same(answer, expected, tolerance), hint

    return test


def returns(expected: Any, *arguments: Any, hint: str = "", tolerance: float = 1e-6) -> Test:
    """A test of a function: called with the arguments it returns what is expected. Says what it returned."""

    def test(function: Callable[..., Any]) -> None:
        assert callable(function), f"This should be a function, and it is {_short(function)}."
        result = function(*arguments)
        call = f"{getattr(function, '__name__', 'your function')}({', '.join(_short(a) for a in arguments)})"
        message = f"{call} gives {_short(result)} instead of {_short(expected)}. {hint}"
        assert _same(result, expected, tolerance), message.strip()

    return test


def _verdict(answer: Any, tests: tuple[Test, ...]) -> str:
    unanswered = "not answered yet. Fill in the gap and run the cell again."
    if _holds_blank(answer):
        return unanswered
    try:
        for test in tests:
            test(answer)
    except NotImplementedError:
        return unanswered
    except AssertionError as error:
        return f"not yet. {str(error) or 'One of the tests does not hold.'}"
    except (Exception, SystemExit) as error:
        return f"not yet. Your code raised {type(error).__name__}: {error}{_line_of(answer, error)}"
    return "correct."


def _holds_blank(answer: Any) -> bool:
    """Whether a gap is left: in a value, inside a list, tuple or dictionary, or named in a function's code."""
    if isinstance(answer, Blank):
        return True
    if isinstance(answer, dict):
        return any(_holds_blank(value) for value in answer.values())
    if isinstance(answer, list | tuple):
        return any(_holds_blank(value) for value in answer)
    return _names_blank(getattr(answer, "__code__", None))


def _names_blank(code: Any) -> bool:
    if not isinstance(code, CodeType):
        return False
    return "___" in code.co_names or any(_names_blank(constant) for constant in code.co_consts)


def _line_of(answer: Any, error: BaseException) -> str:
    """Where in the reader's function the error came up: " (line 3 of the cell)", or nothing."""
    file = getattr(getattr(answer, "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" (line {lines[-1]} of the cell)" if lines else ""


def _same(got: Any, expected: Any, tolerance: float) -> bool:
    got, expected = (value.tolist() if hasattr(value, "tolist") else value for value in (got, expected))
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        return len(got) == len(expected) and all(map(_same, got, expected, [tolerance] * len(got)))
    if type(expected) in (int, float) and type(got) in (int, float):
        return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
    return type(got) is type(expected) and got == expected


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
