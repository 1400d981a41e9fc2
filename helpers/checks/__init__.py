"""Tests and hints of the exercises, one module per notebook and one function per exercise.

`check("03.2", answer)` calls `exercise_2(answer)` of the module `notebook_03`. The parameters of such a function have
the names that the answers have in the notebook. It returns nothing if the answers are correct. Otherwise it raises
AssertionError with a sentence on what is wrong. Neither this sentence nor a hint may tell the answer.

These modules import torch and other helpers only inside the functions, so `check` starts fast.
"""

import copy
import math
import numbers
from collections.abc import Callable
from typing import Any


def hints(*sentences: str) -> Callable[[Callable[..., None]], Any]:
    """Give a test its hints, from the first nudge to the last."""

    def give(test: Any) -> Any:
        test.hints = sentences
        return test

    return give


def returns(function: Any, arguments: tuple[Any, ...], expected: Any, why: str) -> None:
    """Call the function with a copy of the arguments, and assert that the result is the `same` as expected.

    The message gives the call, its result and `why`, not what was expected.
    """
    assert callable(function), f"This should be a function, but it is {shown(function)}."
    got = function(*copy.deepcopy(arguments))
    call = f"`{getattr(function, '__name__', 'your function')}({', '.join(map(_text, arguments))})`"
    assert got is not None, f"{call} returned `None`. Is a `return` missing?"
    assert same(got, expected), f"{call} returned {shown(got)}. {why}"


def has_keys(answer: Any, expected: dict[str, Any], name: str) -> None:
    """Assert that the answer is a dictionary with the keys of `expected`, in their order. `name` is the answer's."""
    assert isinstance(answer, dict), f"Keep the dictionary `{name}` as it is, and fill in its values."
    for key in expected:
        assert key in answer, f"`{key}` is missing."
    assert list(answer) == list(expected), f"Keep the keys of `{name}` as they are."


def same(got: Any, expected: Any, tolerance: float = 1e-5) -> bool:
    """Return whether two values are equal: any kinds of number within the tolerance, also in lists and tensors.

    >>> same([0.1 + 0.2, 1], (0.3, 1.0))
    True
    """
    got, expected = (value.tolist() if hasattr(value, "tolist") else value for value in (got, expected))
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        return len(got) == len(expected) and all(map(same, got, expected, [tolerance] * len(got)))
    if is_number(got) and is_number(expected):
        return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
    return type(got) is type(expected) and got == expected


def is_number(value: Any) -> bool:
    """Return whether this is a real number, and not True or False."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """Return a value as code for a message: numbers rounded, long values shortened.

    >>> shown([2 / 3, 1])
    '`[0.6667, 1]`'
    """
    return f"`{_text(value)}`"


def _text(value: Any) -> str:
    value = value.tolist() if hasattr(value, "tolist") else value
    text = " ".join(repr(_rounded(value)).replace("`", "'").split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
