"""The verifier: right programs pass, programs that cheat do not, and neither harms the next one."""

import math
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from helpers.problems import Problem, load_problems, write_problems
from helpers.verifier import (
    BrokenTestsError,
    GradingError,
    Outcome,
    Submission,
    Verdict,
    close_pool,
    grade_programs,
    isolation_report,
    pool,
    wire,
)
from tests import attacks

HUMANEVAL = load_problems("humaneval")
SOME = HUMANEVAL[:6]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def no_processes_left():
    yield
    close_pool()


def submission(problem: Problem, completion: str) -> Submission:
    return Submission(problem.prompt + completion, problem.prompt, problem.test, problem.entry_point)


def right(problems: list[Problem] = HUMANEVAL) -> list[Submission]:
    return [submission(problem, problem.canonical_solution) for problem in problems]


def judge_one(program: str, test: str, **limits: object) -> Verdict:
    """Grade one program that defines `f` with the body of a `check`."""
    check = "def check(candidate):\n" + textwrap.indent(textwrap.dedent(test), "    ")
    return grade_programs([Submission(textwrap.dedent(program), "", check, "f")], **limits)[0]


def outcomes(verdicts: list[Verdict]) -> Counter:
    return Counter(str(verdict.outcome) for verdict in verdicts)


def test_every_canonical_solution_passes():
    failed = [
        (problem.task_id, verdict.message)
        for problem, verdict in zip(HUMANEVAL, grade_programs(right()), strict=True)
        if not verdict.passed
    ]
    assert failed == []


@pytest.mark.parametrize("name", attacks.ON_EVERY_PROBLEM)
def test_cheat_passes_no_problem(name: str):
    completion, expected = attacks.ON_EVERY_PROBLEM[name]
    verdicts = grade_programs([submission(problem, completion) for problem in HUMANEVAL])
    assert set(outcomes(verdicts)) <= expected
    assert len(verdicts) == 164


@pytest.mark.parametrize("name", attacks.ON_SOME_PROBLEMS)
def test_cheat_fails_and_spares_its_neighbours(name: str):
    completion, expected = attacks.ON_SOME_PROBLEMS[name]
    batch = [entry for problem in SOME for entry in (submission(problem, completion), *right([problem]))]
    verdicts = grade_programs(batch)
    assert set(outcomes(verdicts[0::2])) <= expected
    assert outcomes(verdicts[1::2]) == {"passed": len(SOME)}


def test_the_walk_finds_the_tests_where_they_are_in_its_process(tmp_path: Path):
    """The cheat is a live one: in the process that holds the tests it passes most problems."""
    write_problems(HUMANEVAL[:30], tmp_path / "problems.jsonl")
    script = f"""
        import json
        from tests import attacks
        passed = 0
        for line in open({str(tmp_path / "problems.jsonl")!r}):
            problem, names = json.loads(line), {{}}
            test = problem["test"]
            try:
                exec(problem["prompt"] + attacks.in_body(attacks.WALK) + test, names)
                names["check"](names[problem["entry_point"]])
                passed += 1
            except Exception:
                pass
        print(passed)
    """
    assert int(run_script(script)) >= 24


def test_an_answer_of_its_own_is_a_live_forgery():
    """The forger does reach the channel: an answer that is right, and is the only one, is as good as returning it."""
    program = "def f(x):\n" + attacks.in_body(
        attacks.ANSWER.format(answers='[("value", 7)]') + "import os\nos.read(3, 9)"
    )
    assert judge_one(program, "assert candidate(1) == 7").message == (
        "the program sent a message of its own in place of an answer"
    )
    assert judge_one(program, "assert candidate(1) == 8").outcome is Outcome.FAILED


def test_a_message_after_the_last_answer_is_no_pass():
    program = """
        def f(x):
            import os, threading
            os.write(3, b"\\0\\0\\0\\1")
            return x
    """
    assert judge_one(program, "assert candidate(1) == 1").outcome is Outcome.FAILED


@pytest.mark.parametrize("killer", [attacks.KILL_NURSERY, attacks.KILL_JUDGES], ids=["nursery", "judges"])
def test_killing_its_graders_is_an_error_and_harms_nobody_else(killer: str):
    good = right(HUMANEVAL[:30])
    batch = [*good[:15], submission(HUMANEVAL[40], attacks.in_body(killer)), *good[15:]]
    verdicts = grade_programs(batch, workers=2)
    assert verdicts.pop(15).outcome is Outcome.ERROR
    assert outcomes(verdicts) == {"passed": 30}


def test_an_endless_loop_delays_nobody(monkeypatch: pytest.MonkeyPatch):
    """Counted, not timed: the good programs are through before the loop is given up."""
    order = []
    collect = pool.Worker.collect
    monkeypatch.setattr(pool.Worker, "collect", lambda worker: order.append(collect(worker)) or order[-1])
    loop = submission(HUMANEVAL[0], attacks.in_body("while True:\n    pass"))
    verdicts = grade_programs([loop, *right(HUMANEVAL[:60])], workers=2)
    assert verdicts[0].outcome is Outcome.TIMEOUT
    assert outcomes(verdicts[1:]) == {"passed": 60}
    assert [outcome for outcome, _ in order].index("timeout") >= 50


def test_a_loop_while_loading_or_in_threads_and_a_sleep_time_out():
    test = "def check(candidate):\n    assert candidate() == 1\n"
    programs = {
        "loading": "def f(): return 1\nwhile True: pass\n",
        "ignores the signals": "from signal import *\nfor s in (24, 26, 27): signal(s, SIG_IGN)\nwhile True: pass",
        "swallows everything": "def f():\n while True:\n  try:\n   while True: pass\n  except BaseException: pass\n",
        "threads": "import threading as t\ndef g():\n  while 1: pass\ndef f():\n  t.Thread(target=g).start()\n  g()\n",
        "sleeps": "import time\ndef f(): time.sleep(1000)\n",
    }
    items = [Submission(program, "", test, "f") for program in programs.values()]
    assert outcomes(grade_programs(items, timeout=0.2, workers=5)) == {"timeout": 5}


def test_processor_time_counts_and_not_the_clock_on_the_wall():
    program = "import time\ndef f():\n    time.sleep(1.0)\n    return 1\n"
    assert judge_one(program, "assert candidate() == 1", timeout=0.3).passed


@pytest.mark.parametrize("test", ["while candidate(): pass", "x = candidate()\nwhile x: pass"])
def test_tests_that_never_end_time_out(test: str):
    assert judge_one("def f(): return 1", test, timeout=0.2).outcome is Outcome.TIMEOUT


def test_tests_that_hang_in_one_call_are_given_up():
    verdict = judge_one("def f(): return 10**9", "assert sum(range(candidate() ** 9)) == 1", timeout=0.2)
    assert verdict.outcome is Outcome.ERROR
    assert grade_programs(right(SOME))[0].passed


@pytest.mark.parametrize("ending", ["raise SystemExit", "import os; os._exit(0)", "return iter([])"])
def test_tests_that_swallow_exceptions_do_not_turn_an_end_into_a_pass(ending: str):
    test = "try:\n    candidate()\nexcept BaseException:\n    pass"
    assert not judge_one(f"def f():\n    {ending}\n", test).passed


def test_stop_iteration_does_not_end_a_comparison():
    assert not judge_one("def f(x):\n    raise StopIteration", "assert all(map(candidate, [1, 2]))").passed
    assert judge_one("def f(x):\n    return x", "assert all(map(candidate, [1, 2]))").passed


def test_tests_can_expect_an_exception():
    test = """
        try:
            candidate(-1)
        except ValueError as error:
            assert str(error) == "negative"
        else:
            raise AssertionError
    """
    assert judge_one("def f(x):\n    raise ValueError('negative')", test).passed
    assert judge_one("class E(ValueError): pass\ndef f(x):\n    raise E('negative')", test).passed
    assert not judge_one("def f(x):\n    raise TypeError('negative')", test).passed
    assert not judge_one("def f(x):\n    return 1", test).passed


VALUES = """[
    None, True, 0, -1, 2**63, -(10**5000), 0.1, -0.0, 1e308, float("inf"), 1j, "", "a\\u20ac\\U0001f600",
    "\\ud83d\\ude00", "\\ud800", "\\0", b"\\xff", [], [[1], (2, [3])], (), (1,), {1, 2}, set(), frozenset({3}),
    {}, {"a": {1: [None]}, (1, 2): "t", None: 0, frozenset({1}): b""}, {"int": "ff"}, {"tuple": [1]},
]"""


def test_plain_values_cross_unchanged_both_ways():
    """The program sees the very value, and the tests get it back, types included."""
    test = f"""
        values = {VALUES}
        for value in values:
            back, text = candidate(value)
            assert back == value and type(back) is type(value)
            assert text in (repr(value), "too long") if type(value) is not int else True
        assert candidate(float("nan"))[1] == "nan"
        assert candidate(a=1) == (1, "1")
    """
    program = "def f(a):\n    try:\n        return a, repr(a)\n    except ValueError:\n        return a, 'too long'"
    assert judge_one(program, test).message == "all tests passed"


def test_codec_reads_what_it_writes_and_refuses_the_rest():
    for value in eval(VALUES):
        back = wire.loads(wire.dumps(value))
        assert back == value and type(back) is type(value)
    assert math.isnan(wire.loads(wire.dumps(float("nan"))))
    assert math.copysign(1, wire.loads(wire.dumps(-0.0))) == -1
    refused = [
        b"", b"{}", b"\xff", b"[1,", b'{"int":1}', b'{"int":"x"}', b'{"set":[[]]}', b'{"dict":[[1]]}',
        b'{"dict":[[[],1]]}',
        b'{"object":[]}', b'{"set":[],"list":[]}', b'{"text":"f"}', b'{"complex":[1.0]}', b'{"complex":["1",2]}',
        b"[" * 100_000, b"[" * 150 + b"]" * 150, b"9" * 5000, b'{"bytes":"0"}', b'{"tuple":"ab"}', b'{"dict":{"ab":1}}',
    ]  # fmt: skip
    for body in refused:
        with pytest.raises(wire.WireError):
            wire.loads(body)


def test_a_value_of_a_subclass_is_compared_as_the_plain_value_it_holds():
    equal = "class {0}({1}):\n    __eq__ = __lt__ = __gt__ = lambda s, o: True\n    __hash__ = {1}.__hash__\n"
    for kind, right_value, wrong_value in (
        ("int", 3, 4),
        ("str", "'a'", "'b'"),
        ("list", [1], [2]),
        ("dict", {1: 2}, {}),
    ):
        program = equal.format("Sly", kind) + f"def f():\n    return Sly({wrong_value})\n"
        assert not judge_one(program, f"assert candidate() == {right_value}").passed
    counted = "from collections import Counter\ndef f(x):\n    return Counter(x)\n"
    assert judge_one(counted, "assert candidate('aab') == {'a': 2, 'b': 1}").passed
    named = "from collections import namedtuple\ndef f():\n    return namedtuple('P', 'x y')(1, 2)\n"
    assert judge_one(named, "assert candidate() == (1, 2)").passed


def test_helpers_of_the_prompt_are_there_for_the_tests_and_cannot_be_replaced():
    prompt = "def helper(x):\n    return x + 1\n\n\ndef f(x):\n"
    test = "def check(candidate):\n    assert candidate(1) == helper(1) and f(2) == 3\n"
    sly = prompt + "    return 0\ndef helper(x):\n    return 0\n"
    good = prompt + "    return helper(x)\n"
    verdicts = grade_programs([Submission(program, prompt, test, "f") for program in (sly, good)])
    assert [verdict.passed for verdict in verdicts] == [False, True]


def test_same_batch_same_verdicts():
    """Chance and set order are the same each time, though chance is not the same for each program."""
    chance = "import random\ndef f():  # {}\n    return random.random() < 0.5 and ''.join({{'a', 'b', 'c', 'd'}})\n"
    test = "def check(candidate):\n    import random\n    assert candidate() and random.random() < 0.9, candidate()\n"
    order = "def check(candidate):\n    assert not candidate(), ''.join({'a', 'b', 'c', 'd'}) + candidate()\n"
    batch = [Submission(chance.format(number), "", tests, "f") for number in range(30) for tests in (test, order)]
    first = grade_programs(batch)
    close_pool()
    assert grade_programs(batch, workers=1) == first
    assert min(outcomes(first).values()) >= 10


def test_verdicts_come_in_the_order_of_the_items_and_equal_items_are_graded_once(monkeypatch: pytest.MonkeyPatch):
    submitted = []
    submit = pool.Worker.submit
    monkeypatch.setattr(
        pool.Worker, "submit", lambda worker, item, limits: submitted.append(item) or submit(worker, item, limits)
    )
    wrong = [submission(problem, "") for problem in SOME]
    batch = [item for pair in zip(right(SOME), wrong, strict=True) for item in pair] * 3
    assert [verdict.passed for verdict in grade_programs(batch)] == [True, False] * 18
    assert len(submitted) == 12
    assert grade_programs([]) == []


def test_no_trace_of_one_program_reaches_the_next():
    leave = "import builtins, sys, os\nbuiltins.left = sys.left = os.left = 1\ndef f():\n    return 1\n"
    find = "import builtins, sys, os\ndef f():\n    return [hasattr(m, 'left') for m in (builtins, sys, os)]\n"
    test = "def check(candidate):\n    assert candidate() in (1, [False, False, False])\n"
    verdicts = grade_programs([Submission(program, "", test, "f") for program in (leave, find)], workers=1)
    assert outcomes(verdicts) == {"passed": 2}


@pytest.mark.parametrize("mode", ["fork", "spawn"])
def test_what_surrounds_a_program(mode: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    program = """
        def f():
            import os, resource, sys
            limits = [resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1] for name in ("AS", "FSIZE", "CORE")]
            files = [fd for fd in range(200) if os.path.exists(f"/proc/self/fd/{fd}")]
            nowhere = {os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)}
            leads = os.getsid(0) == os.getpgid(0) == os.getpid()
            ours = [path for path in sys.path if "verifier" in path]
            return limits, files, nowhere, leads, os.getcwd(), "SECRET_TOKEN" in os.environ, len(os.environ) < 8, ours
    """
    test = 'expected = ([1 << 28, 0, 0], [0, 1, 2, 3], {"/dev/null"}, True, "/", False, True, [])\n'
    verdict = judge_one(program, test + "assert candidate() == expected, candidate()", memory=1 << 28, mode=mode)
    assert verdict.message == "all tests passed"


def test_it_writes_no_file(tmp_path: Path):
    program = (
        f"def f():\n    with open({str(tmp_path / 'x')!r}, 'w') as file:\n        file.write('x' * 10)\n    return 1\n"
    )
    assert not judge_one(program, "assert candidate() == 1").passed
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size == 0


def test_without_fork_the_verdicts_are_the_same():
    cheats = [attacks.ON_EVERY_PROBLEM[name][0] for name in ("a wrong body", "exit in the body", "a syntax error")]
    loop = submission(HUMANEVAL[0], attacks.in_body("while True:\n    pass"))
    batch = [*right(SOME), loop, *(submission(problem, cheat) for problem in SOME[:2] for cheat in cheats)]
    forked = grade_programs(batch, mode="fork", timeout=0.5)
    assert grade_programs(batch, mode="spawn", timeout=0.5) == forked
    assert outcomes(forked)["passed"] == len(SOME)


def test_broken_tests_are_named_and_not_scored():
    with pytest.raises(BrokenTestsError, match="'f' cannot be graded: the tests are not Python"):
        grade_programs([Submission("def f(): pass", "", "def check(candidate:", "f")])
    with pytest.raises(BrokenTestsError, match="ModuleNotFoundError"):
        grade_programs([Submission("def f(): pass", "import no_such_module", "def check(candidate): pass", "f")])
    with pytest.raises(BrokenTestsError, match="pass a value of type function"):
        judge_one("def f(x):\n    return 1", "assert candidate(lambda: 1) == 1")


def test_messages_say_why():
    test = "assert candidate(1) == 2"
    messages = {
        "def f(x):\n    return 3": "AssertionError in the tests: assert candidate(1) == 2",
        "def f(x):\n    return 1 / 0": "the function raised ZeroDivisionError: division by zero",
        "def g(x):\n    return 1": "the program does not load: NameError: the program defines no function 'f'",
        "import no_such_module": "the program does not load: ModuleNotFoundError: No module named 'no_such_module'",
        "def f(x):\n    exit()": "stopped before the tests ended: SystemExit",
        "def f(x):\n    return object()": "the function returned a value of type object, which is not plain data",
        "x" * (1 << 20): "the program is longer than 524288 characters",
    }
    for program, message in messages.items():
        assert judge_one(program, test).message == message
    assert judge_one("def f(x):\n    return\x00 1", test).outcome is Outcome.ERROR
    assert judge_one("def f(x):\n    return '\ud800'", test).outcome is Outcome.ERROR


def test_a_machine_that_cannot_grade_gives_none_once_and_then_says_so(monkeypatch: pytest.MonkeyPatch):
    close_pool()
    monkeypatch.setattr(pool, "_command", lambda *args: [sys.executable, "-c", "raise SystemExit(1)"])
    assert grade_programs(right(SOME[:1]))[0].outcome is Outcome.INFRASTRUCTURE_FAILED
    with pytest.raises(GradingError, match="Grading does not work here"):
        grade_programs(right(SOME[:1]))
    monkeypatch.undo()
    assert grade_programs(right(SOME[:1]))[0].passed
    monkeypatch.setattr(pool, "_command", lambda *args: [sys.executable, "-c", "raise SystemExit(1)"])
    close_pool()
    assert grade_programs(right(SOME[:1]))[0].outcome is Outcome.INFRASTRUCTURE_FAILED
    monkeypatch.undo()
    close_pool()
    assert grade_programs(right(SOME[:1]))[0].passed


def test_wrong_settings_are_named():
    for settings in ({"timeout": 0}, {"memory": -1}, {"workers": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            grade_programs(right(SOME), **settings)
    with pytest.raises(ValueError, match="'fork' or 'spawn'"):
        grade_programs(right(SOME), mode="thread")


def test_several_threads_grade_at_a_time():
    results: dict[int, Counter] = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: outcomes(grade_programs(right(HUMANEVAL[n : n + 10])))}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.values()) == [{"passed": 10}] * 4


def test_report_names_every_layer():
    report = isolation_report()
    assert all(isinstance(on, bool) and detail for on, detail in report.values())
    assert report["separate processes"].on and report["session"].on and report["file limits"].on
    assert not report["seccomp"].on


def run_script(script: str) -> str:
    """Run Python code in a process of its own, and return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


GRADE_AND_LIST = """
import os, subprocess, sys, time
from helpers.verifier import Submission, close_pool, grade_programs
test = "def check(candidate):\\n    assert candidate() == 1\\n"
program = "import os, time\\ndef f():\\n    os.fork()\\n    return 1\\n"
def below(pid):
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in children] + [other for child in children for other in below(child)]
verdicts = grade_programs([Submission(program + "#" * n, "", test, "f") for n in range(8)], workers=2)
mine = [pid for pid in below(os.getpid()) if os.path.exists(f"/proc/{pid}")]
"""


def test_a_child_that_a_program_leaves_behind_ends_with_it():
    program = (
        "import os, time\ndef f():\n    pid = os.fork()\n    if not pid:\n        time.sleep(600)\n    return pid\n"
    )
    message = judge_one(program, "pid = candidate()\nassert not pid, pid").message
    left = int(re.search(r"AssertionError: (\d+) in the tests", message)[1])
    deadline = time.monotonic() + 10
    while is_running(left) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(left)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of one until its parent asks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_no_process_is_left_after_close():
    script = GRADE_AND_LIST + "close_pool()\nprint(len(mine), [pid for pid in mine if os.path.exists(f'/proc/{pid}')])"
    assert run_script(script) == "4 []\n"


@pytest.mark.parametrize("ending", ["sys.exit(0)", "os.kill(os.getpid(), 9)"])
def test_no_process_is_left_after_the_end(ending: str):
    command = [sys.executable, "-c", GRADE_AND_LIST + f"print(*mine, flush=True)\n{ending}"]
    pids = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120).stdout.split()
    assert len(pids) == 4
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if is_running(pid)] == []


def test_a_forked_child_grades_with_processes_of_its_own():
    script = """
        import os
        from helpers.verifier import Submission, close_pool, grade_programs, pool
        item = Submission("def f(): return 1", "", "def check(candidate): assert candidate() == 1", "f")
        def judge():
            assert grade_programs([item])[0].passed
            return pool._pool._workers[0]._processes[0].pid
        before = judge()
        pid = os.fork()
        if pid == 0:
            own = judge() != before
            close_pool()
            os._exit(0 if own else 1)
        print(os.waitpid(pid, 0)[1], judge() == before)
    """
    assert run_script(script) == "0 True\n"


def test_an_interrupt_while_grading_leaves_a_pool_that_works():
    script = """
        import signal
        from helpers.verifier import Submission, grade_programs
        test = "def check(candidate): assert candidate() == 1"
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.7)
        try:
            grade_programs([Submission("def f():\\n  while True: pass", "", test, "f")], timeout=30)
        except KeyboardInterrupt:
            print("interrupted", grade_programs([Submission("def f(): return 1", "", test, "f")])[0].outcome)
    """
    assert run_script(script) == "interrupted passed\n"


def test_it_loads_nothing_but_the_standard_library_and_quickly():
    script = """
        import sys, time
        start = time.perf_counter()
        import helpers.verifier
        foreign = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"helpers", "__main__"}
        others = {name for name in sys.modules if name.startswith("helpers.") and "verifier" not in name}
        print(sorted(name for name in foreign if name in ("torch", "numpy", "trl")), sorted(others))
    """
    assert run_script(script) == "[] []\n"
