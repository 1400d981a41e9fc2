"""Rewards: every form of a right answer is paid, nothing else is, and wrong columns are named."""

import ast
import re
import textwrap
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import pytest
from random_policy import arithmetic_problems, save_random_policy

from helpers import rewards, train
from helpers.problems import Problem, load_problems
from helpers.rewards import (
    compiles,
    extract_code,
    fraction_of_tests,
    passes_tests,
    reward_of,
    verdicts,
)
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
    with pytest.raises(ValueError, match="'test' must contain one entry for each of the 2 completions, not 1."):
        passes_tests([PROMPT] * 2, [BODY] * 2, test=[TEST], entry_point=["f"] * 2)
    with pytest.raises(ValueError, match="'entry_point' must contain .* not one string"):
        passes_tests([PROMPT], [BODY], test=[TEST], entry_point="f")
    with pytest.raises(ValueError, match="'prompts' must contain one entry"):
        passes_tests([], [BODY], test=[TEST], entry_point=["f"])
    with pytest.raises(ValueError, match="'code_prompt' must contain one entry"):
        passes_tests([PROMPT], [BODY], test=[TEST], entry_point=["f"], code_prompt=[])
    with pytest.raises(ValueError, match="give the data set a 'code_prompt' column"):
        passes_tests([[{"role": "user", "content": "x"}]], [BODY], test=[TEST], entry_point=["f"])
    with pytest.raises(ValueError, match="'assistant'"):
        passes_tests([PROMPT], [[{"role": "user", "content": "x"}]], test=[TEST], entry_point=["f"])
    with pytest.raises(ValueError, match="not NoneType"):
        passes_tests([PROMPT], [None], test=[TEST], entry_point=["f"])


# --- the share of the asserts ----------------------------------------------------------------------------------------


def share(program: str, check: str) -> float:
    """What `fraction_of_tests` pays a program that defines `f` under a `check` of these lines."""
    test = "def check(candidate):\n" + textwrap.indent(textwrap.dedent(check), "    ")
    [reward] = fraction_of_tests(["def f(x):\n"], [textwrap.dedent(program)], test=[test], entry_point=["f"])
    return reward


FOUR = "assert candidate(0) == 0\nassert candidate(1) == 1\nassert candidate(2) == 4\nassert candidate(3) == 9\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return x * x", 1.0),
        ("return x", 0.5),
        ("return 4", 0.25),  # the one before it failed, and it counts all the same
        ("return 1 // x", 0.25),  # an assert whose call raises is one that does not hold
        ("return None", 0.0),
        ("if x == 2:\n    raise SystemExit(0)\nreturn x * x", 0.5),  # what held before the end is kept
        ("if x == 2:\n    import os\n    os._exit(0)\nreturn x * x", 0.5),
        ("raise SystemExit(0)", 0.0),
    ],
)
def test_each_assert_counts_by_itself(body: str, expected: float):
    assert share("def f(x):\n" + textwrap.indent(body, "    "), FOUR) == expected


def test_programs_that_run_out_of_time_keep_what_held_before():
    program = "def f(x):\n    while x == 1: pass\n    return x * x\n"
    rows = {"test": ["def check(candidate):\n" + textwrap.indent(FOUR, "    ")], "entry_point": ["f"]}
    [verdict] = verdicts(["def f(x):\n"], [program], **rows, each_assert=True, timeout=0.3)
    assert (verdict.outcome, verdict.share) == (Outcome.TIMEOUT, 0.25)


CHEATS = {
    "exits while loading": "import sys\nsys.exit(0)\ndef f(x): pass\n",
    "does not load": "def f(x):\n    return (\n",
    "equals everything": "class Yes:\n    __eq__ = lambda *_: True\ndef f(x):\n    return Yes()\n",
    "forges a message in the third call": (
        "import os\ndef f(x):\n    if x == 2:\n        os.write(3, b'\\0\\0\\0\\4true')\n    return x * x\n"
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_earn_no_share(name: str):
    assert share(CHEATS[name], FOUR) == 0.0


def test_loops_and_variables_of_the_tests_are_followed():
    squares = "for x in range(10):\n    assert candidate(x) == x * x\n"
    assert share("def f(x):\n    return x * x\n", squares) == 1.0
    assert share("def f(x):\n    return x * x if x < 7 else 0\n", squares) == 0.7
    helper = "twice = candidate(2)\nassert twice == 4\nassert candidate(3) == 9\n"
    assert share("def f(x):\n    return 9\n", helper) == 0.5
    # The assert that needs the lost variable fails with it; the other one stands by itself.
    assert share("def f(x):\n    return 9 if x == 3 else 1 // 0\n", helper) == 0.5
    nested = "for x in range(2):\n    y = candidate(x)\n    if y:\n        assert y == 1\nassert candidate(2) == 4\n"
    assert share("def f(x):\n    return x * x\n", nested) == 1.0
    assert share("def f(x):\n    return 2 * x\n", nested) == 0.5


def test_tests_that_hold_no_assert_pay_for_passing():
    by_itself = "if candidate(3) != 9:\n    raise AssertionError\n"
    assert share("def f(x):\n    return x * x\n", by_itself) == 1.0
    assert share("def f(x):\n    return x\n", by_itself) == 0.0


def test_every_humaneval_solution_holds_every_assert():
    completions = [problem.canonical_solution for problem in HUMANEVAL]
    assert fraction_of_tests([p.prompt for p in HUMANEVAL], completions, **columns(HUMANEVAL)) == [1.0] * 164


class Tally(ast.NodeTransformer):
    """Turns `assert x` into `tally(lambda: x)`: another way to count than the verifier's, for programs one trusts."""

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        no_arguments = ast.arguments([], [], None, [], [], None, [])
        call = ast.Call(ast.Name("tally", ast.Load()), [ast.Lambda(no_arguments, node.test)], [])
        return ast.Expr(call)


def share_of_nothing(problem: Problem) -> float:
    """The share of a problem's asserts that hold for a function which returns None, counted in this process."""
    held = []

    def tally(claim: Callable[[], object]) -> None:
        try:
            held.append(bool(claim()))
        except Exception:
            held.append(False)

    names = {"tally": tally}
    exec(problem.prompt + "    pass\n", names)
    exec(compile(ast.fix_missing_locations(Tally().visit(ast.parse(problem.test))), "<tests>", "exec"), names)
    names["check"](names[problem.entry_point])
    return sum(held) / len(held)


def test_an_empty_body_earns_what_another_way_of_counting_gives_it():
    expected = [share_of_nothing(problem) for problem in HUMANEVAL]
    given = fraction_of_tests([p.prompt for p in HUMANEVAL], ["    pass\n"] * 164, **columns(HUMANEVAL))
    assert given == pytest.approx(expected)
    assert 0 < sum(earned > 0 for earned in given) < 164  # some tests hold `assert True`


def test_a_broken_machine_gives_no_share(monkeypatch: pytest.MonkeyPatch):
    broken = Verdict(Outcome.INFRASTRUCTURE_FAILED, "")
    monkeypatch.setattr(rewards, "grade_programs", lambda items, **limits: [broken for _ in items])
    assert fraction_of_tests([PROMPT], [BODY], test=[TEST], entry_point=["f"]) == [None]


# --- rewards that look at the text alone -----------------------------------------------------------------------------


def test_compiling_is_paid_and_nothing_is_run():
    completions = [BODY, WHOLE, chat(WHOLE), "    return 0\n", "    raise SystemExit\n", "    return (", "No, sorry."]
    given = compiles([PROMPT] * 7, completions, entry_point=["f"] * 7, test=[""] * 7)
    assert given == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    words = [[{"role": "user", "content": "Please write it."}]]
    answer = [[{"role": "assistant", "content": chat(WHOLE)}]]
    assert compiles(words, answer, entry_point=["f"], code_prompt=[PROMPT]) == [1.0]
    with pytest.raises(ValueError, match="'entry_point' must contain one entry"):
        compiles([PROMPT], [BODY], entry_point=[])


# --- as TRL and the command line use them ----------------------------------------------------------------------------


def test_the_command_line_lists_them_by_readable_names():
    for reward in (passes_tests, fraction_of_tests, compiles):
        assert train.find_reward(reward.__name__) is reward
    with pytest.raises(train.CourseError, match="passes_tests, fraction_of_tests, compiles."):
        train.find_reward("no_such_reward")


def trained_once(folder: Path, reward_funcs: list[Callable], reward_weights: list[float] | None) -> SimpleNamespace:
    """One step of a real GRPOTrainer on one prompt: its log, and what it kept of rewards and advantages."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from helpers.policy import load_policy

    model, tokenizer = load_policy(save_random_policy(folder / "policy"))
    problem = arithmetic_problems()[0]
    config = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=4,
        max_steps=1,
        logging_steps=1,
        scale_rewards="none",
        reward_weights=reward_weights,
        report_to="none",
        disable_tqdm=True,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
    )
    row = {"prompt": problem.prompt, "test": problem.test, "entry_point": problem.entry_point}
    trainer = GRPOTrainer(
        model, reward_funcs, args=config, train_dataset=Dataset.from_list([row]), processing_class=tokenizer
    )
    trainer.train()
    return SimpleNamespace(log=trainer.state.log_history[0], kept=trainer._logs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights", [[1.0, 0.2, 0.1], None])
def test_trl_adds_up_several_rewards_by_their_weights(tmp_path: Path, weights: list[float] | None):
    """Whatever the random policy wrote, these four are graded: right, half right, Python, nothing of that."""
    answers = ["    return a + b\n", "    return 9\n", "    return None\n", "    return (\n"]
    test = "def check(candidate):\n    assert candidate(7, 2) == 9\n    assert candidate(1, 1) == 2\n"

    def on_these(reward: Callable) -> Callable:
        @wraps(reward)
        def grade(prompts: list[str], completions: list[str], **given: object) -> list[float | None]:
            result = reward(prompts=prompts, completions=answers, **given | {"test": [test] * 4})
            return [*result[:3], None] if reward is fraction_of_tests else result

        return grade

    run = trained_once(tmp_path, [on_these(f) for f in (passes_tests, compiles, fraction_of_tests)], weights)
    one, two, three = weights or [1.0, 1.0, 1.0]
    # A None adds nothing; the others of that completion still count.
    totals = [one + two + three, two + three / 2, two, 0.0]
    mean = sum(totals) / 4
    assert run.log["reward"] == pytest.approx(mean)
    assert list(run.kept["advantages"]) == pytest.approx([total - mean for total in totals], abs=1e-6)
    means = {name: run.log[f"rewards/{name}/mean"] for name in ("passes_tests", "compiles", "fraction_of_tests")}
    assert means == pytest.approx({"passes_tests": 0.25, "compiles": 0.75, "fraction_of_tests": 0.5})
