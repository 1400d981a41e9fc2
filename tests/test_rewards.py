"""Rewards: every form of a right answer is paid, nothing else is, and wrong columns are named."""

import re
import textwrap
from collections.abc import Callable

import pytest

from helpers import rewards
from helpers.problems import Problem, load_problems
from helpers.rewards import extract_code, passes_tests, reward_of, verdicts
from helpers.verifier import Outcome, Verdict, close_pool

HUMANEVAL = load_problems("humaneval")
PROMPT = 'import math\n\n\ndef helper(x):\n    return x + 1\n\n\ndef f(x):\n    """Return x + 2."""\n'
BODY = "    return helper(x) + 1\n"
WHOLE = "def f(x):\n    return helper(x) + 1\n"
TEST = "def check(candidate):\n    assert candidate(math.floor(1.5)) == 3\n    assert helper(1) == 2\n"
TRAIL = (
    "\nThis works because helper adds 1, and (of course) isn't slow.\n\nDone\n\nNote: sorted_list\n"
    "if __name__ == '__main__':\n    print(undefined_name)\n\n\ndef next_function(x:\n    return\n"
)


@pytest.fixture(scope="module", autouse=True)
def no_processes_left():
    yield
    close_pool()


def columns(problems: list[Problem]) -> dict[str, list[str]]:
    return {"test": [p.test for p in problems], "entry_point": [p.entry_point for p in problems]}


def whole(problem: Problem) -> str:
    """The function alone, without the prompt's imports and helpers."""
    start = [found.start() for found in re.finditer(rf"^def {problem.entry_point}\(", problem.prompt, re.MULTILINE)][-1]
    return problem.prompt[start:] + problem.canonical_solution


def chat(code: str, info: str = "python") -> str:
    return f"Sure! Here is how:\n\n```{info}\n{code}\n```\n\nIt takes linear time.\n\n```\n>>> f(1)\n2\n```\n"


FORMS: dict[str, Callable[[Problem], str]] = {
    "body": lambda p: p.canonical_solution,
    "body and what follows": lambda p: p.canonical_solution + TRAIL,
    "body and end of text": lambda p: p.canonical_solution + "<|endoftext|>def x(:\n<|im_end|>",
    "body and its own helper": lambda p: p.canonical_solution + "\n\ndef other():\n    return 1\n",
    "body in a fence that the prompt opened": lambda p: (
        p.canonical_solution + "\n```\nThat's all.\n```python\nf(1)\n```"
    ),
    "whole function": whole,
    "whole function and what follows": lambda p: whole(p) + TRAIL,
    "prose, whole function, prose": lambda p: f"Here's the function:\n\n{whole(p)}\n\nIt is from the book.",
    "prompt and body": lambda p: p.prompt + p.canonical_solution,
    "chat": lambda p: chat(whole(p)),
    "chat, Windows line ends": lambda p: chat(whole(p)).replace("\n", "\r\n"),
    "chat, fence never closed": lambda p: f"Sure:\n```python\n{whole(p)}",
    "chat, first a wrong draft": lambda p: chat(f"def {p.entry_point}(*a):\n    return 0") + chat(whole(p)),
    "chat, indented body": lambda p: f"The body is:\n\n```\n{p.canonical_solution}\n```\nIt works.\n",
    "chat, body without indentation": lambda p: f"Sure!\n```py\n{textwrap.dedent(p.canonical_solution)}\n```\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_humaneval_solution_is_paid_in_every_form(form: str):
    completions = [FORMS[form](problem) for problem in HUMANEVAL]
    graded = verdicts([problem.prompt for problem in HUMANEVAL], completions, **columns(HUMANEVAL))
    unpaid = [(p.task_id, verdict.message) for p, verdict in zip(HUMANEVAL, graded, strict=True) if not verdict.passed]
    assert unpaid == []


def test_conversational_rows_are_paid_with_the_problems_own_text():
    prompts = [[{"role": "user", "content": "Please write it."}]] * 164
    completions = [[{"role": "assistant", "content": chat(whole(problem))}] for problem in HUMANEVAL]
    code = [problem.prompt for problem in HUMANEVAL]
    assert passes_tests(prompts, completions, code_prompt=code, **columns(HUMANEVAL)) == [1.0] * 164


# Each must give a program that passes TEST, which needs the prompt's import and its helper.
PAID = {
    "signature repeated": PROMPT[PROMPT.index("def f") :] + BODY,
    "signature with types": "def f(x: int) -> int:\n    return helper(x) + 1",
    "indented signature": textwrap.indent(WHOLE, "    "),
    "a space before it": " " + WHOLE,
    "assigned": "f = lambda x: helper(x) + 1\n",
    "decorated": "import functools\n\n@functools.cache\n" + WHOLE,
    "helper behind it": "def f(x):\n    return g(x)\n\n\ndef g(x):\n    return helper(x) + 1\n",
    "body with helper behind it": "    return g(x)\n\n\ndef g(x):\n    return helper(x) + 1\n",
    "body with constant behind it": "    return helper(x) + ONE\n\nONE = 1\n",
    "comment first": "# add twice\n" + BODY,
    "blank lines first": "\n\n" + BODY,
    "inner function of the same name": "    def f(y):\n        return helper(y)\n    return f(x) + 1\n",
    "future import": "from __future__ import annotations\n" + WHOLE,
    "future import in a fence": chat("from __future__ import annotations\n\n" + WHOLE),
    "class behind it, unfinished": WHOLE + "\n\nclass Solution:\n    def f(self",
    "decorator left over": BODY + "\n\n@cache\ndef g(",
    "string never closed behind it": BODY + '\n"""\nExplanation: this',
    "fence in its docstring": 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return x + 2\n',
    "fence in its docstring, in a fence": chat(
        'def f(x):\n    """\n    ```python\n    f(1)\n    ```\n    """\n    return x + 2'
    ),
    "fence at the margin of a docstring": 'def f(x):\n    """\n```\nf(1)\n```\n    """\n    return helper(x) + 1\n',
    "fences nested by mistake": "```python\ndef f(x):\n```python\ndef f(x):\n    return x + 2\n```",
    "fence without language": chat(WHOLE, ""),
    "fence with attributes": chat(WHOLE, "python title=f.py"),
    "fence in a list": "1. Write:\n\n   ```python\n   def f(x):\n       return x + 2\n   ```\n",
    "two-space body in a fence": "```python\n  y = helper(x)\n  return y + 1\n```",
    "prose behind an unindented body": "```python\nreturn helper(x) + 1\nThat is it.\n```",
    "thought first": "<think>\nMaybe ```python\ndef f(x): return 0\n```\n</think>\n```python\n" + WHOLE + "```",
    "start token": "<|im_start|>assistant\n" + WHOLE + "<|im_end|>\n<|endoftext|>",
    "plain end token": BODY.rstrip() + "</s></s>",
    "end token on the last line of code": BODY.rstrip() + "<|im_end|>\n<|im_start|>user\nThanks",
    "end token, then another problem": BODY.rstrip() + "<|endoftext|>def f(x):\n    return 0\n",
    "end token within a string": '    return helper(x) + len("<s></s>") - 6\n',
    "unknown escape": '    return helper(x) + len("\\d") - 1\n',
    "prose that is Python": WHOLE + "\nDone\n\nComplexity: O(n)\n\n- fast\n\nNote: sorted_list\n\nfast, simple\n",
    "deep nesting": "    y = " + "1 + " * 2000 + "1\n" + BODY + "\nDone\n",
    "main block": WHOLE + "\nif __name__ == '__main__':\n    import sys\n    sys.exit(f(1))\n",
    "prints": WHOLE + "\nprint(f(1))\nprint('done')\n",
}


@pytest.mark.parametrize("name", PAID)
def test_right_answers_are_paid(name: str):
    [verdict] = verdicts([PROMPT], [PAID[name]], test=[TEST], entry_point=["f"])
    assert verdict.message == "all tests passed"


UNPAID = {
    "nothing": "",
    "only prose": "I'm sorry, I can't do that.",
    "unfinished body": "    y = helper(x)\n    return (y +",
    "unfinished function": "def f(x):\n    return (helper(x) +",
    "wrong": "    return x\n",
    "right, then wrong": chat(WHOLE) + chat("def f(x):\n    return 0\n"),
    "wrongly indented body": "   y = 1\n    return helper(x) + 1\n",
    "body of another function": "```python\ndef g(x):\n    return helper(x) + 1\n```",
    "absurd nesting": "    return " + "(" * 5000,
    "absurd unary": "    return " + "-" * 100_000 + "1",
    "no text at all": "\x00",
    "half a character": "    return '\ud800'\n",
}


@pytest.mark.parametrize("name", UNPAID)
def test_other_answers_are_not_paid(name: str):
    assert passes_tests([PROMPT], [UNPAID[name]], test=[TEST], entry_point=["f"]) == [0.0]


def test_a_broken_answer_fails_with_its_own_error_and_not_silently():
    [verdict] = verdicts([PROMPT], ["    return (\n"], test=[TEST], entry_point=["f"])
    assert verdict.outcome is Outcome.ERROR and "SyntaxError" in verdict.message


def test_the_prompt_is_kept_as_it_is():
    for completion in (BODY, WHOLE, chat(WHOLE), chat(BODY)):
        program = extract_code(PROMPT, completion, "f")
        assert program.startswith("import math\n\n\ndef helper(x):\n    return x + 1\n")
    assert extract_code(PROMPT, BODY, "f") == PROMPT + BODY


def test_a_prompt_may_end_anywhere_before_the_body():
    for prompt in (PROMPT.rstrip(), PROMPT + "    ", "def helper(x):\n    return x + 1\n\ndef f(x):\n", "def f(x):"):
        body = "return x + 2\n" if prompt.endswith("    ") else "    return x + 2\n"
        test = "def check(candidate):\n    assert candidate(1) == 3\n"
        completions = [body, "def f(x):\n    return x + 2\n", chat("    return x + 2")]
        assert passes_tests([prompt] * 3, completions, test=[test] * 3, entry_point=["f"] * 3) == [1.0] * 3, prompt


def test_a_prompt_in_words_needs_a_whole_function():
    test = "def check(candidate):\n    assert candidate(1) == 3\n"
    completions = ["def f(x):\n    return x + 2\n", chat("def f(x):\n    return x + 2"), "    return x + 2\n"]
    prompts = ["Write a function f that adds two; don't print."] * 3
    assert passes_tests(prompts, completions, test=[test] * 3, entry_point=["f"] * 3) == [1.0, 1.0, 0.0]


def test_it_is_called_as_trl_calls_it():
    """With columns it does not know, `completion_ids`, `trainer_state` and loggers; it returns plain floats."""
    result = passes_tests(
        prompts=[PROMPT, PROMPT],
        completions=[BODY, "    return 0\n"],
        completion_ids=[[1, 2], [3]],
        test=[TEST, TEST],
        entry_point=["f", "f"],
        task_id=["a", "b"],
        trainer_state=None,
        log_extra=print,
        log_metric=print,
    )
    assert result == [1.0, 0.0] and all(type(reward) is float for reward in result)
    assert passes_tests.__name__ == "passes_tests"
    assert passes_tests([], [], test=[], entry_point=[]) == []


def test_only_passed_is_paid_and_only_a_broken_machine_gives_none(monkeypatch: pytest.MonkeyPatch):
    assert {outcome: reward_of(Verdict(outcome, "")) for outcome in Outcome} == {
        Outcome.PASSED: 1.0,
        Outcome.FAILED: 0.0,
        Outcome.ERROR: 0.0,
        Outcome.TIMEOUT: 0.0,
        Outcome.OUT_OF_MEMORY: 0.0,
        Outcome.INFRASTRUCTURE_FAILED: None,
    }
    broken = Verdict(Outcome.INFRASTRUCTURE_FAILED, "")
    monkeypatch.setattr(rewards, "grade_programs", lambda items, **limits: [broken for _ in items])
    assert passes_tests([PROMPT], [BODY], test=[TEST], entry_point=["f"]) == [None]


def test_wrong_columns_get_one_clear_sentence():
    with pytest.raises(ValueError, match="'test' must hold one entry for each of the 2 completions, not 1."):
        passes_tests([PROMPT] * 2, [BODY] * 2, test=[TEST], entry_point=["f"] * 2)
    with pytest.raises(ValueError, match="'entry_point' must hold .* not one string"):
        passes_tests([PROMPT], [BODY], test=[TEST], entry_point="f")
    with pytest.raises(ValueError, match="'prompts' must hold one entry"):
        passes_tests([], [BODY], test=[TEST], entry_point=["f"])
    with pytest.raises(ValueError, match="'code_prompt' must hold one entry"):
        passes_tests([PROMPT], [BODY], test=[TEST], entry_point=["f"], code_prompt=[])
    with pytest.raises(ValueError, match="give the data set a 'code_prompt' column"):
        passes_tests([[{"role": "user", "content": "x"}]], [BODY], test=[TEST], entry_point=["f"])
    with pytest.raises(ValueError, match="'assistant'"):
        passes_tests([PROMPT], [[{"role": "user", "content": "x"}]], test=[TEST], entry_point=["f"])
    with pytest.raises(ValueError, match="not NoneType"):
        passes_tests([PROMPT], [None], test=[TEST], entry_point=["f"])
