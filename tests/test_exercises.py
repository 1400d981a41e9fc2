"""check(): the verdict for open, wrong and right answers, and that it never raises unless it is asked to."""

import builtins

import pytest

from helpers.exercises import ___, check, equals, returns


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip()


def stub(x):
    raise NotImplementedError


def gap(x):
    return ___ * x


def gap_in_a_comprehension(x):
    return [___ for _ in range(x)]


def half(x):
    return x / 2


def double(x):
    return 2 * x


def careless(x):
    return [][x]


def leaves(x):
    raise SystemExit(0)


def fails_an_assertion(x):
    raise AssertionError  # what an assert statement without a message raises


IS_HALF = returns(2, 4, hint="Divide by two.")


@pytest.mark.parametrize("answer", [stub, gap, gap_in_a_comprehension, ___, ___ / 8 + 1, [1, ___], {"a": (___,)}])
def test_an_open_answer_is_not_answered_yet(answer, capsys):
    check("Exercise 1", answer, IS_HALF)
    assert said(capsys) == "Exercise 1: not answered yet. Fill in the gap and run the cell again."


def test_a_gap_that_reaches_a_number_is_not_answered_yet(capsys):
    hidden = ___
    check("Exercise 1", lambda x: range(hidden), IS_HALF)
    assert "not answered yet" in said(capsys)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (double, "not yet. double(4) gives 8 instead of 2. Divide by two."),
        (7, "not yet. This should be a function, and it is 7."),
        (fails_an_assertion, "not yet. One of the tests does not hold."),
        (leaves, "not yet. Your code raised SystemExit: 0"),
    ],
)
def test_a_wrong_answer_is_told_why(answer, verdict, capsys):
    check("Exercise 1", answer, IS_HALF)
    assert said(capsys).startswith(f"Exercise 1: {verdict}")


def test_an_error_in_the_answer_is_named_with_its_line(capsys):
    check("Exercise 1", careless, IS_HALF)
    line = careless.__code__.co_firstlineno + 1
    raised = "Your code raised IndexError: list index out of range"
    assert said(capsys) == f"Exercise 1: not yet. {raised} (line {line} of the cell)"


def test_the_first_test_that_fails_gives_the_hint(capsys):
    check("Exercise 1", half, IS_HALF, returns(3, 4, hint="second"), returns(5, 4, hint="third"))
    assert "second" in said(capsys)


def test_a_right_answer_is_correct(capsys):
    assert check("Exercise 1", half, IS_HALF, returns(0.5, 1)) is None
    assert said(capsys) == "Exercise 1: correct."


@pytest.mark.parametrize("answer", [stub, double, careless, leaves])
def test_strict_mode_raises_for_all_but_correct(answer, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(AssertionError, match="^Exercise 1: not "):
        check("Exercise 1", answer, IS_HALF)
    check("Exercise 1", half, IS_HALF)
    assert said(capsys) == "Exercise 1: correct."


def test_an_interruption_goes_through():
    def interrupted(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("Exercise 1", interrupted, IS_HALF)


class Array:
    """Stands for a tensor or array: anything with tolist()."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (2.0, 2, True),
        (1, True, False),
        (float("nan"), 0.3, False),
        ("0.3", 0.3, False),
        ([1, 2.0], (1.0, 2), True),
        ([1], [1, 2], False),
        (Array([[0.5, 1.0]]), [[0.5, 1]], True),
        (Array([0.5]), Array([0.6]), False),
        ({"a"}, {"a"}, True),
        (None, None, True),
    ],
)
def test_values_are_compared_within_a_tolerance(answer, expected, right, capsys):
    check("Exercise 1", answer, equals(expected, "Look again."))
    assert said(capsys) == "Exercise 1: " + ("correct." if right else "not yet. Look again.")


def test_the_tolerance_can_be_set(capsys):
    check("Exercise 1", 0.33, equals(1 / 3, "Look again.", tolerance=0.01))
    assert said(capsys) == "Exercise 1: correct."


def test_long_values_are_cut_in_messages(capsys):
    check("Exercise 1", builtins.list, returns([], range(1000)))
    assert len(said(capsys)) < 200


@pytest.mark.parametrize("use", [bool, int, float, len, list, lambda gap: gap < 1, lambda gap: [1][gap]])
def test_a_gap_has_no_value(use):
    with pytest.raises(NotImplementedError):
        use(___)
