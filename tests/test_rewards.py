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

from helpers import rewards, train, verifier
from helpers.problems import Problem, columns, load_problems
from helpers.rewards import (
    compiles,
    constant_reward,
    fraction_of_tests,
    passes_tests,
    random_reward,
    reward_of,
    seeded,
    verdicts,
)
from helpers.runtime import CourseError
from helpers.verifier import Outcome, Verdict, close_pool

HUMANEVAL = load_problems("humaneval")
PROMPT = 'import math\n\n\ndef helper(x):\n    return x + 1\n\n\ndef f(x):\n    """Return x + 2."""\n'
BODY = "    return helper(x) + 1\n"
WHOLE = "def f(x):\n    return helper(x) + 1\n"
TEST = "def check(candidate):\n    assert candidate(math.floor(1.5)) == 3\n    assert helper(1) == 2\n"


@pytest.fixture(scope="module", autouse=True)
def no_processes_left():
    yield
    close_pool()


def whole(problem: Problem) -> str:
    """The function alone, without the prompt's imports and helpers."""
    start = [found.start() for found in re.finditer(rf"^def {problem.entry_point}\(", problem.prompt, re.MULTILINE)][-1]
    return problem.prompt[start:] + problem.canonical_solution


def chat(code: str) -> str:
    return f"Sure! Here is how:\n\n```python\n{code}\n```\n\nIt takes linear time.\n"


def test_conversational_rows_are_paid_with_the_problems_own_text():
    prompts = [[{"role": "user", "content": "Please write it."}]] * 164
    completions = [[{"role": "assistant", "content": chat(whole(problem))}] for problem in HUMANEVAL]
    assert passes_tests(prompts, completions, **columns(HUMANEVAL)) == [1.0] * 164


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
        Outcome.BROKEN_TESTS: None,
        Outcome.INFRASTRUCTURE_FAILED: None,
    }
    broken = Verdict(Outcome.INFRASTRUCTURE_FAILED, "")
    monkeypatch.setattr(rewards, "grade_programs", lambda items, **limits: [broken for _ in items])
    assert passes_tests([PROMPT], [BODY], test=[TEST], entry_point=["f"]) == [None]


def test_rows_of_another_kind_in_a_mixed_data_set_get_none():
    rows = {"test": [None, TEST, None], "entry_point": [None, "f", "f"], "code_prompt": [None, PROMPT, None]}
    chats = [[{"role": "user", "content": "What is 2 + 2?"}]] * 3
    answers = [[{"role": "assistant", "content": text}] for text in ("4", chat(WHOLE), "5")]
    assert passes_tests(chats, answers, **rows) == [None, 1.0, None]
    assert fraction_of_tests(chats, answers, **rows, task_id=[None, "t/1", None]) == [None, 1.0, None]
    assert compiles(["", PROMPT, ""], ["4", BODY, "5"], entry_point=[None, "f", None]) == [None, 1.0, None]
    assert passes_tests(["a"] * 2, ["b"] * 2, test=[None] * 2, entry_point=[None] * 2) == [None, None]


BROKEN_TEST = "def check(candidate):\n    assert candidate(abs) == 1\n"  # a function cannot cross to the program


def test_a_problem_that_cannot_be_graded_costs_only_its_own_rows_and_is_named_once():
    rows = {"test": [TEST, BROKEN_TEST, TEST, BROKEN_TEST], "entry_point": ["f"] * 4}
    answers = [BODY, BODY, "    return 0\n", "    raise SystemExit\n"]
    with pytest.warns(
        UserWarning, match=r"problem named/1 cannot be graded: .*\. Its completions get no reward"
    ) as caught:
        for reward in (passes_tests, fraction_of_tests, passes_tests):
            given = reward([PROMPT] * 4, answers, **rows, task_id=["named/0", "named/1", "named/2", "named/1"])
            assert given[1::2] == [None, None] and given[0] == 1.0 and given[2] < 1
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="problem f cannot be graded"):
        assert passes_tests([PROMPT] * 4, answers, **rows) == [1.0, None, 0.0, None]


def test_where_no_row_can_be_graded_the_reader_gets_a_sentence(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(rewards.BrokenTestsError, match="The problem demo/7 cannot be graded: ") as caught:
        passes_tests([PROMPT] * 2, [BODY] * 2, test=[BROKEN_TEST] * 2, entry_point=["f"] * 2, task_id=["demo/7"] * 2)
    assert isinstance(caught.value, CourseError) and isinstance(caught.value, verifier.BrokenTestsError)

    def fails(items: list, **limits: object) -> list:
        raise verifier.GradingError("Grading does not work here.")

    monkeypatch.setattr(rewards, "grade_programs", fails)
    with pytest.raises(rewards.GradingError, match="does not work here") as caught:
        passes_tests([PROMPT], [BODY], test=[TEST], entry_point=["f"])
    assert isinstance(caught.value, CourseError) and isinstance(caught.value, verifier.GradingError)


def test_what_a_conversation_may_end_with_is_an_answer_without_a_program():
    calls = [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": BODY}]
    answers = [[], calls, [{"role": "assistant", "content": [{"type": "text", "text": BODY}]}]]
    rows = {"test": [TEST] * 3, "entry_point": ["f"] * 3, "code_prompt": [PROMPT] * 3}
    assert passes_tests([[]] * 3, answers, **rows) == [0.0, 0.0, 1.0]


def test_a_thought_that_the_prompt_opens_and_nothing_closes_is_not_an_answer():
    rows = {"test": [TEST] * 3, "entry_point": ["f"] * 3, "code_prompt": [PROMPT] * 3}
    answers = [chat(WHOLE), "Perhaps " + chat("def f(x):\n    return 0\n") + "</think>\n" + BODY, BODY]
    assert passes_tests([f"Write f.\n\n{PROMPT}<think>\n"] * 3, answers, **rows) == [0.0, 1.0, 0.0]


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
    with pytest.raises(ValueError, match="'test' must contain strings or None, not list"):
        passes_tests([PROMPT], [BODY], test=[["assert f(1) == 3"]], entry_point=["f"])
    with pytest.raises(ValueError, match="'task_id' must contain one entry"):
        passes_tests([PROMPT], [BODY], test=[TEST], entry_point=["f"], task_id=[])
    with pytest.raises(ValueError, match="not NoneType"):
        passes_tests([PROMPT], [None], test=[TEST], entry_point=["f"])


# --- the share of the asserts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [passes_tests, fraction_of_tests])
@pytest.mark.parametrize("setting", ["workers", "timeout", "memory", "modules", "each_assert"])
def test_a_setting_of_the_grader_is_refused_and_another_column_is_not(reward: Callable, setting: str):
    given = {"prompts": [PROMPT], "completions": ["    return x + 2\n"], "entry_point": ["f"]}
    given["test"] = ["def check(candidate):\n    assert candidate(1) == 3\n"]
    with pytest.raises(TypeError, match=rf"'{setting}' is a setting.*verdicts\(\.\.\., {setting}="):
        reward(**given, **{setting: 1})
    assert reward(**given, level=["easy"], trainer_state=None) == [1.0]


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

    def visit_Assert(self, node: ast.Assert) -> ast.Expr | None:
        if isinstance(node.test, ast.Constant):
            return None  # `assert True` says nothing about the program
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
    return sum(held) / max(1, len(held))


def test_an_empty_body_earns_what_another_way_of_counting_gives_it():
    expected = [share_of_nothing(problem) for problem in HUMANEVAL]
    given = fraction_of_tests([p.prompt for p in HUMANEVAL], ["    pass\n"] * 164, **columns(HUMANEVAL))
    assert given == pytest.approx(expected)


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


def test_a_prefilled_answer_that_closes_its_fence_is_graded_as_the_body_alone():
    problems = load_problems("tiny")[::100]
    answers = [problem.canonical_solution.rstrip("\n") + "\n```\nThis function ..." for problem in problems]
    prompts = [problem.prompt for problem in problems]
    assert passes_tests(prompts=prompts, completions=answers, **columns(problems)) == [1.0] * len(problems)


# --- as TRL and the command line use them ----------------------------------------------------------------------------


def test_the_command_line_lists_them_by_readable_names():
    for reward in (passes_tests, fraction_of_tests, compiles, random_reward, constant_reward):
        assert train.find_reward(reward.__name__) is reward
    with pytest.raises(train.CourseError) as refused:
        train.find_reward("no_such_reward")
    assert all(name in str(refused.value) for name in ("passes_tests", "fraction_of_tests", "compiles"))


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


# --- controls: rewards that know nothing of the tests ---

TOSS_PROMPTS, TOSS_COMPLETIONS = ["p"] * 2000, ["same"] * 1000 + ["other"] * 1000


def test_the_coin_is_fair_and_blind_to_the_completion():
    rewards = random_reward(prompts=TOSS_PROMPTS, completions=TOSS_COMPLETIONS, test=[""] * 2000)
    assert set(rewards) == {0.0, 1.0}
    for half in (rewards[:1000], rewards[1000:]):
        assert abs(sum(half) / 1000 - 0.5) < 0.05  # three standard errors


def test_the_tosses_are_fixed_by_seed_and_step():
    def tosses(**kwargs):
        return random_reward(prompts=TOSS_PROMPTS, completions=TOSS_COMPLETIONS, **kwargs)

    step = [SimpleNamespace(global_step=number) for number in range(2)]
    assert tosses(seed=1, trainer_state=step[1]) == tosses(seed=1, trainer_state=step[1])
    different = [tosses(), tosses(seed=1), tosses(seed=1, trainer_state=step[1]), tosses(trainer_state=step[1])]
    for number, first in enumerate(different):
        for second in different[number + 1 :]:
            assert 900 < sum(a == b for a, b in zip(first, second, strict=True)) < 1100


def test_a_constant_reward_is_the_same_for_all():
    assert constant_reward(prompts=TOSS_PROMPTS[:3], completions=TOSS_COMPLETIONS[:3], test=["", "", ""]) == [1.0] * 3


def test_a_seed_is_bound_to_the_rewards_that_take_one_and_the_name_stays():
    bound = seeded(random_reward, 5)
    assert bound.__name__ == "random_reward"
    assert bound(["p"] * 20, [""] * 20) == random_reward(["p"] * 20, [""] * 20, seed=5)
    assert bound(["p"] * 20, [""] * 20) != random_reward(["p"] * 20, [""] * 20)
    assert seeded(passes_tests, 5) is passes_tests
    assert seeded(constant_reward, 5) is constant_reward


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError):
        random_reward(prompts=["a"], completions=["b", "c"])
