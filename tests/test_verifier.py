"""The verifier: right programs pass, programs that cheat do not, and neither harms the next one."""

import doctest
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.problems import Problem, load_problems
from helpers.verifier import (
    GradingError,
    Outcome,
    Submission,
    Verdict,
    close_pool,
    grade_programs,
    isolation_report,
    pool,
)
from helpers.verifier.verdict import Job, Limits
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


def test_an_endless_loop_delays_nobody(monkeypatch: pytest.MonkeyPatch):
    """Counted, not timed: all good programs are graded before the endless loop is stopped."""
    order = []
    collect = pool.Worker.collect
    monkeypatch.setattr(pool.Worker, "collect", lambda worker: order.append(collect(worker)) or order[-1])
    loop = submission(HUMANEVAL[0], attacks.in_body("while True:\n    pass"))
    verdicts = grade_programs([loop, *right(HUMANEVAL[:60])], workers=2)
    assert verdicts[0].outcome is Outcome.TIMEOUT
    assert outcomes(verdicts[1:]) == {"passed": 60}
    assert [outcome for outcome, *_ in order].index("timeout") >= 50


def test_a_loop_while_loading_and_a_sleep_time_out():
    test = "def check(candidate):\n    assert candidate() == 1\n"
    programs = {
        "loading": "def f(): return 1\nwhile True: pass\n",
        "ignores the signals": "from signal import *\nfor s in (24, 26, 27): signal(s, SIG_IGN)\nwhile True: pass",
        "swallows everything": "def f():\n while True:\n  try:\n   while True: pass\n  except BaseException: pass\n",
        "sleeps": "import time\ndef f(): time.sleep(1000)\n",
    }
    items = [Submission(program, "", test, "f") for program in programs.values()]
    assert outcomes(grade_programs(items, timeout=0.2, workers=4)) == {"timeout": 4}


def test_processor_time_counts_and_not_the_clock_on_the_wall():
    program = "import time\ndef f():\n    time.sleep(1.0)\n    return 1\n"
    assert judge_one(program, "assert candidate() == 1", timeout=0.3).passed


@pytest.mark.parametrize("test", ["while candidate(): pass", "x = candidate()\nwhile x: pass"])
def test_tests_that_never_end_time_out(test: str):
    assert judge_one("def f(): return 1", test, timeout=0.2).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize("ending", ["raise SystemExit", "import os; os._exit(0)", "return lambda: 0"])
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
    """The program sees the same value, and the tests get it back, types included."""
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
    """Random numbers and set order are the same each time, but random numbers differ between programs."""
    chance = "import random\ndef f():  # {}\n    return random.random() < 0.5 and ''.join({{'a', 'b', 'c', 'd'}})\n"
    test = "def check(candidate):\n    import random\n    assert candidate() and random.random() < 0.9, candidate()\n"
    order = "def check(candidate):\n    assert not candidate(), ''.join({'a', 'b', 'c', 'd'}) + candidate()\n"
    batch = [Submission(chance.format(number), "", tests, "f") for number in range(30) for tests in (test, order)]
    first = grade_programs(batch)
    close_pool()
    assert grade_programs(batch, workers=1) == first
    assert min(outcomes(first).values()) >= 10


def test_same_verdicts_on_a_busy_machine():
    """Four busy processes run on each core, and every program still gets the time that it may use."""
    half = "def f():\n    import time\n    while time.process_time() < 0.4:\n        pass\n    return 1\n"
    endless = "def f():\n    while True:\n        pass\n"
    tests = "def check(candidate):\n    assert candidate() == 1\n"
    batch = [*right(), *(Submission(program, "", tests, "f") for program in (half, endless))]
    quiet = grade_programs(batch, timeout=0.8)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * len(pool.cores()))]
    try:
        assert grade_programs(batch, timeout=0.8) == quiet
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert outcomes(quiet) == {"passed": 165, "timeout": 1}


def test_verdicts_come_in_the_order_of_the_items_and_equal_items_are_graded_once(monkeypatch: pytest.MonkeyPatch):
    submitted = []
    submit = pool.Worker.submit
    monkeypatch.setattr(pool.Worker, "submit", lambda worker, job: submitted.append(job) or submit(worker, job))
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


@pytest.mark.parametrize(
    ("prompt", "test", "reason"),
    [
        ("", "def check(candidate:", "the tests are not Python"),
        ("import no_such_module", "def check(candidate): pass", "ModuleNotFoundError"),
        ("", "def test(candidate): pass", "KeyError: 'check'"),
        ("", "def check(candidate):\n    assert candidate(lambda: 1) == 1", "the tests pass a value of type function"),
        ("", "def check(candidate):\n    assert candidate(int) == 1", "the tests pass a value of type type"),
        ("", "def check(candidate):\n    assert candidate(missing) == 1", "NameError: name 'missing' is not defined"),
        ("", "def check():\n    pass", "TypeError"),
        ("", "def check(candidate):\n    while True: pass", "do not come to an end"),
        ("", "#" * (5 << 20), "longer than 4 MiB"),
    ],
)
def test_a_problem_with_broken_tests_is_named_and_the_rest_of_the_batch_is_graded(prompt: str, test: str, reason: str):
    """A program that crashes and one that never reaches the broken line get the same outcome."""
    programs = ["def f(x):\n    return 1", "def f(x):\n    raise SystemExit", "def f(x:"]
    batch = [*right(SOME), *(Submission(program, prompt, test, "f") for program in programs), *right(SOME)]
    verdicts = grade_programs(batch)
    assert outcomes(verdicts[:6] + verdicts[-6:]) == {"passed": 12}
    assert outcomes(verdicts[6:9]) == {"broken_tests": 3}
    assert all(reason in verdict.message and not verdict.graded for verdict in verdicts[6:9])


def test_messages_say_why():
    test = "assert candidate(1) == 2"
    messages = {
        "def f(x):\n    return 3": "AssertionError in the tests: assert candidate(1) == 2",
        "def f(x):\n    return 1 / 0": "the function raised ZeroDivisionError: division by zero",
        "def g(x):\n    return 1": "the program does not load: NameError: the program defines no function 'f'",
        "import no_such_module": "the program does not load: ModuleNotFoundError: No module named 'no_such_module'",
        "def f(x):\n    exit()": "stopped before the tests ended: SystemExit",
        "def f(x):\n    return object()": "the function returned a value of type object, which is not plain data",
        "x" * (1 << 20): "the program is longer than 131072 characters",
    }
    for program, message in messages.items():
        assert judge_one(program, test).message == message
    assert judge_one("def f(x):\n    return\x00 1", test).outcome is Outcome.ERROR
    assert judge_one("def f(x):\n    return '\ud800'", test).outcome is Outcome.ERROR


def test_a_machine_that_cannot_grade_gives_none_once_and_then_says_so(monkeypatch: pytest.MonkeyPatch):
    close_pool()
    monkeypatch.setattr(pool, "command", lambda *args: [sys.executable, "-c", "raise SystemExit(1)"])
    assert grade_programs(right(SOME[:1]))[0].outcome is Outcome.INFRASTRUCTURE_FAILED
    with pytest.raises(GradingError, match="Grading does not work here"):
        grade_programs(right(SOME[:1]))
    monkeypatch.undo()
    assert grade_programs(right(SOME[:1]))[0].passed
    monkeypatch.setattr(pool, "command", lambda *args: [sys.executable, "-c", "raise SystemExit(1)"])
    close_pool()
    assert grade_programs(right(SOME[:1]))[0].outcome is Outcome.INFRASTRUCTURE_FAILED
    monkeypatch.undo()
    close_pool()
    assert grade_programs(right(SOME[:1]))[0].passed


def test_wrong_settings_are_named():
    for settings in ({"timeout": 0}, {"timeout": float("nan")}, {"memory": -1}, {"memory": 1 << 70}, {"workers": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            grade_programs(right(SOME), **settings)
    with pytest.raises(ValueError, match="no module named 'no_such_module'"):
        grade_programs(right(SOME), modules=("no_such_module",))


def test_numpy_is_there_if_it_is_asked_for():
    program = "import numpy as np\ndef f(x):\n    return np.{}\n"
    parts = {"arange(x).sum()": 6, "fft.fft([x])[0].real": 4, "linalg.det(np.eye(x))": 1, "random.rand() < 1": True}
    test = "def check(candidate):\n    assert candidate(4) == {}\n"
    batch = [Submission(program.format(part), "", test.format(value), "f") for part, value in parts.items()]
    assert outcomes(grade_programs(batch, modules=("numpy",))) == {"passed": len(parts)}
    chance = Submission(program.format("random.rand()"), "", "def check(c):\n    assert c(1) == 2, c(1)\n", "f")
    first = grade_programs([chance], modules=("numpy",))
    assert grade_programs([chance], modules=("numpy",)) == first
    assert outcomes(grade_programs(batch)) == {"error": len(parts)}


def test_ranks_on_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4, 5, 6}, raising=False)
    assert pool.cores() == [0, 2, 4, 5, 6]
    for ranks, shares in ((2, [[0, 2], [4, 5]]), (8, [[0], [2], [4], [5], [6], [0]])):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        for rank, cores in enumerate(shares):
            monkeypatch.setenv("LOCAL_RANK", str(rank))
            assert pool.cores() == cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no such thing here")
def test_graders_stay_on_one_core_each_where_there_are_as_many_as_cores():
    mine = os.sched_getaffinity(0)
    for workers, expected in ((len(mine), 1), (1, len(mine))):
        close_pool()
        grade_programs(right(HUMANEVAL[: len(mine)]), workers=workers)
        held = [[os.sched_getaffinity(p.pid) for p in worker._processes] for worker in pool._pool._workers]
        assert {len(cores) for pair in held for cores in pair} == {expected}
        assert len({min(pair[0]) for pair in held}) == len(held)


def test_the_report_is_a_table():
    report = isolation_report()
    lines = str(report).splitlines()
    assert len(lines) == len(report)
    for line, (name, state) in zip(lines, report.items(), strict=True):
        assert line.startswith(name) and line[20:23].strip() == ("on" if state.on else "OFF")


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


def is_running(pid: int) -> bool:
    """Whether this process runs. A zombie does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_no_process_is_left_after_close():
    script = GRADE_AND_LIST + "close_pool()\nprint(len(mine), [pid for pid in mine if os.path.exists(f'/proc/{pid}')])"
    assert run_script(script) == "6 []\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks in /proc")
def test_a_player_that_is_killed_before_its_turn_is_replaced():
    good = right(SOME[:1])
    assert grade_programs(good, workers=1)[0].passed
    nursery = pool._pool._workers[0]._processes[1].pid
    waiting = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(nursery)], capture_output=True, text=True
    ).stdout.split()
    for pid in map(int, waiting):
        os.kill(pid, signal.SIGKILL)
        while is_running(pid):
            os.sched_yield()
    assert waiting and grade_programs(good, workers=1)[0].passed


@pytest.mark.parametrize("ending", ["sys.exit(0)", "os.kill(os.getpid(), 9)"])
def test_no_process_is_left_after_the_end(ending: str):
    command = [sys.executable, "-c", GRADE_AND_LIST + f"print(*mine, flush=True)\n{ending}"]
    pids = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120).stdout.split()
    assert len(pids) == 6  # two judges, two nurseries, and the players that are next
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if is_running(pid)] == []


def test_no_thread_descriptor_or_file_is_left():
    script = """
        import os, sys, tempfile, threading
        from helpers.verifier import Submission, close_pool, grade_programs
        test = "def check(candidate): assert candidate() == 1"
        os.chdir(tempfile.mkdtemp())
        left = f"return open('{os.getcwd()}/left', 'w')"
        endings = ("return 1", "import os; os._exit(0)", "return 1 << 9**9", left, "exit()")
        programs = [f"def f():\\n    {ending}" for ending in endings]
        def here():
            return sorted(os.listdir("/proc/self/fd")), threading.active_count(), os.listdir()
        def grade(**settings):
            grade_programs([Submission(program, "", test, "f") for program in programs], workers=2, **settings)
            close_pool()
        grade()
        before = here()
        grade()
        print(here() == before)
        os.rmdir(os.getcwd())
    """
    assert run_script(script) == "True\n"


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


def test_a_second_interrupt_while_the_first_is_seen_to_leaves_one_too():
    script = """
        import os, subprocess
        from helpers.verifier import Submission, close_pool, grade_programs, pool
        good = Submission("def f(): return 1", "", "def check(candidate): assert candidate() == 1", "f")
        wait, interrupts = subprocess.Popen.wait, []
        def interrupted(*arguments):
            if interrupts:
                interrupts.pop()
                raise KeyboardInterrupt
            return wait(*arguments)
        subprocess.Popen.wait = interrupted
        grade_programs([good])
        for _ in range(2):
            interrupts.append(1)
            try:
                close_pool()
            except KeyboardInterrupt:
                print("interrupted", grade_programs([good])[0].outcome, len(pool._pool._workers[0]._processes))
        close_pool()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            print("none left")
    """
    assert run_script(script) == "interrupted passed 2\n" * 2 + "none left\n"


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


# --- each assert by itself -------------------------------------------------------------------------------------------


def share(program: str, check: str, helpers: str = "") -> float:
    """Return the fraction of the asserts that hold, for a program that defines `f` and the body of a `check`."""
    test = f"{helpers}\ndef check(candidate):\n{textwrap.indent(textwrap.dedent(check), '    ')}"
    return grade_programs([Submission(program, "", test, "f")], each_assert=True)[0].share


DOUBLE = "def f(x):\n    return 2 * x\n"


def test_each_assert_counts_once_by_the_part_of_its_runs_that_held():
    two = "\nassert candidate(1) == 2\nassert candidate(2) == 5"
    assert share(DOUBLE, "assert candidate(0) == 0" + two) == pytest.approx(2 / 3)
    assert share(DOUBLE, "for n in range(100): assert candidate(n) == (2 * n if n < 25 else 0)" + two) == (0.25 + 1) / 3
    # A program cannot make one assert count more by keeping its loop alive.
    loop = "n = 0\nwhile not candidate(n) and n < 500:\n    assert candidate(n) is False\n    n += 1"
    assert share("def f(x): return False", loop + two) == pytest.approx(1 / 3)


def test_an_assert_in_a_helper_counts_and_fails_whoever_calls_it():
    helper = "def same(a, b):\n    assert a == b\n    return True\n"
    assert share("def f(x): return 0", "assert same(candidate(1), 1)", helper) == 0
    assert share("def f(x): return 1", "assert same(candidate(1), 1)", helper) == 1
    assert share(DOUBLE, "for n in (1, 2, 3, 4): same(candidate(n), 4)", helper) == 0.25


def test_no_assert_holds_on_an_old_value():
    fails_second = "calls = []\ndef f(x):\n    calls.append(x)\n    if len(calls) > 1: raise ValueError\n    return 1\n"
    for first, second, used in (
        ("seen = {}\nseen['a'] = candidate(1)", "seen['a'] = candidate(2)", "seen['a']"),
        ("import types\nseen = types.SimpleNamespace()\nseen.a = candidate(1)", "seen.a = candidate(2)", "seen.a"),
        ("seen = [candidate(1)]", "seen.append(candidate(2))", "seen[-1]"),
        ("seen = candidate(1)", "seen = candidate(2)", "seen"),
    ):
        assert share(fails_second, f"{first}\n{second}\nassert {used} == 1") == 0
    globally = "seen = {}\n"
    assert (
        share(fails_second, "seen['a'] = candidate(1)\nseen['a'] = candidate(2)\nassert seen['a'] == 1", globally) == 0
    )


@pytest.mark.parametrize("ending", ["import os; os._exit(0)", "raise SystemExit", "raise ValueError"])
def test_a_program_that_ends_itself_is_never_paid_in_full(ending: str):
    program = f"def f(x):\n    if x == 2:\n        {ending}\n    return x\n"
    swallowed = "assert candidate(1) == 1\ntry:\n    candidate(2)\nexcept BaseException:\n    pass"
    found = share(program, swallowed)
    assert found == (1.0 if "ValueError" in ending else 0.5)


@pytest.mark.parametrize("body", ["raise ValueError", "import os; os._exit(0)", "raise SystemExit"])
def test_crashes_are_paid_nothing_on_humaneval(body: str):
    batch = [submission(problem, attacks.in_body(body)) for problem in HUMANEVAL]
    shares = {p.task_id: v.share for p, v in zip(HUMANEVAL, grade_programs(batch, each_assert=True), strict=True)}
    assert {name: value for name, value in shares.items() if value} == {}


def test_right_programs_get_everything_assert_by_assert():
    assert {verdict.share for verdict in grade_programs(right(), each_assert=True)} == {1.0}


def test_an_assert_that_says_nothing_counts_only_when_it_fails():
    assert share(DOUBLE, "assert True, 'fine'\nassert candidate(1) == 3") == 0
    assert share(DOUBLE, "if candidate(1) != 3: assert False\nassert candidate(1) == 2") == 0.5


# --- faults from outside ---------------------------------------------------------------------------------------------

NEEDS_PROC = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks in /proc")
HALF_SECOND = "import time\ndef f(x):\n    while time.process_time() < 0.5: pass\n    return {}\n"


def below(pid: int) -> list[int]:
    """Return the processes below this one."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in children] + [other for child in children for other in below(int(child))]


def grade_while(
    disturb: Callable[[], None], batch: list[Submission], after: float = 0.4, **limits: object
) -> list[Verdict]:
    """Grade, and disturb the grading processes after some seconds."""
    grade_programs(right(SOME), workers=2)
    timer = threading.Timer(after, disturb)
    timer.start()
    try:
        return grade_programs(batch, workers=2, **limits)
    finally:
        timer.join()


def signal_all(script: str, number: int) -> Callable[[], None]:
    """Send a signal to all judges, all nurseries, or all players."""

    def send() -> None:
        for worker in pool._pool._workers:
            judge, nursery = (process.pid for process in worker._processes)
            for pid in {"judge": [judge], "nursery": [nursery], "player": below(nursery)}[script]:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    return send


@NEEDS_PROC
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("script", ["judge", "nursery", "player"])
def test_a_signal_from_outside_changes_no_verdict(script: str, number: int):
    batch = [Submission(HALF_SECOND.format(n % 2) + f"# {n}", "", attacks.EXPECTS_ONE, "f") for n in range(4)]
    assert [v.outcome for v in grade_while(signal_all(script, number), batch)] == [Outcome.FAILED, Outcome.PASSED] * 2


@NEEDS_PROC
def test_a_player_that_is_stopped_for_longer_than_its_time_passes():
    batch = [Submission(HALF_SECOND.format(1) + f"# {n}", "", attacks.EXPECTS_ONE, "f") for n in range(2)]

    def pause() -> None:
        signal_all("player", signal.SIGSTOP)()
        time.sleep(4)
        signal_all("player", signal.SIGCONT)()

    monkey = pytest.MonkeyPatch()
    monkey.setattr(pool, "limits_for", lambda timeout, memory: Limits(timeout, memory, 2.0))
    try:
        assert outcomes(grade_while(pause, batch)) == {"passed": 2}
    finally:
        monkey.undo()


@NEEDS_PROC
def test_a_program_that_is_killed_each_time_does_not_pass(monkeypatch: pytest.MonkeyPatch):
    """This happens on a machine that is short of memory. A program that ends itself gets another outcome."""
    killing = threading.Event()

    def killer() -> None:
        while not killing.wait(0.05):
            for pid in below(os.getpid()):
                # A player that works, and neither a judge nor the player that waits.
                with suppress(OSError):
                    status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                    if int(status[11]) > 30:
                        os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(pool, "RETRY_AFTER", (0.0, 0.1))
    close_pool()
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        program = HALF_SECOND.format(1).replace("0.5", "1.5")
        [verdict] = grade_programs([Submission(program, "", attacks.EXPECTS_ONE, "f")], workers=1)
    finally:
        killing.set()
        thread.join()
    assert verdict.outcome is Outcome.OUT_OF_MEMORY and "killed from outside" in verdict.message


@NEEDS_PROC
@pytest.mark.parametrize("rest", ["time.sleep(60)", "while True: time.sleep(0.4)", "import os; os.read(3, 1)"])
def test_a_sleeper_is_ended_after_two_seconds_of_sleep(rest: str):
    program = f"import time\ndef f(x):\n    {rest}\n"
    start = time.monotonic()
    [verdict] = grade_programs([Submission(program, "", attacks.EXPECTS_ONE, "f")])
    assert verdict.outcome is Outcome.TIMEOUT and "slept" in verdict.message
    assert time.monotonic() - start < 8


@NEEDS_PROC
def test_in_a_shortage_of_memory_the_programs_die_first():
    close_pool()
    assert grade_programs(right(SOME[:1]), workers=1)[0].passed
    [worker] = pool._pool._workers
    found = []
    for pid in below(os.getpid()):
        # The last player may just be ending.
        with suppress(FileNotFoundError):
            found.append(Path(f"/proc/{pid}/oom_score_adj").read_text().strip())
    assert found.count("1000") >= len(worker._processes) + 1


def test_without_any_wall_there_is_one_warning(recwarn: pytest.WarningsRecorder):
    walls = ("seccomp", "Landlock", "mount namespace")
    job = Job(right(SOME[:1])[0], pool.limits_for())
    own = pool.Pool()
    try:
        for _ in range(2):
            assert own.grade([job], 1, pool.Setup(omit=walls))[0].outcome == "passed"
        assert [str(w.message)[:21] for w in recwarn] == ["No layer of isolation"]
        own.grade([job], 1, pool.Setup(omit=walls[1:]))
    finally:
        own.close()
    assert len(recwarn) == 1 or not isolation_report()["seccomp"].on


def test_without_fork_or_unix_sockets_it_refuses_in_one_sentence(monkeypatch: pytest.MonkeyPatch):
    for module, name in ((os, "fork"), (pool.socket, "send_fds")):
        with monkeypatch.context() as patch:
            patch.delattr(module, name)
            for call in (lambda: grade_programs(right(SOME)), isolation_report):
                with pytest.raises(GradingError, match="on Windows use WSL"):
                    call()


def test_where_neither_fork_nor_unix_signals_exist_the_package_can_still_be_imported():
    script = """
        import os, signal, socket
        del os.fork, os.register_at_fork, signal.SIGUSR1, signal.SIGVTALRM, socket.send_fds
        from helpers.verifier import GradingError, Submission, grade_programs
        try:
            grade_programs([Submission("", "", "", "f")])
        except GradingError as error:
            print(error)
    """
    assert run_script(script) == "Grading needs Linux or macOS; on Windows use WSL, the Windows Subsystem for Linux.\n"


def test_a_pure_python_package_is_there_if_the_caller_allows_it():
    pytest.importorskip("sortedcontainers")
    program = "from sortedcontainers import SortedList\ndef f(x):\n    return SortedList([3, x, 2])[2] - 2\n"
    item = Submission(program, "", attacks.EXPECTS_ONE, "f")
    assert grade_programs([item], modules=("sortedcontainers",))[0].passed
    assert "ModuleNotFoundError" in grade_programs([item])[0].message


@pytest.mark.parametrize(
    "module", ["bz2", "lzma", "sqlite3", "ssl", "zlib", "decimal", "zoneinfo", "asyncio", "xml.dom"]
)
def test_python_s_own_library_imports_in_a_program_as_it_does_outside(module: str):
    pytest.importorskip(module)
    works = {
        "bz2": "bz2.compress(b'a')",
        "sqlite3": "sqlite3.connect(':memory:').execute('select 1').fetchone() == (1,)",
    }
    program = f"def f(x):\n    import {module}\n    return bool({works.get(module, module)})"
    assert grade_programs([Submission(program, "", attacks.EXPECTS_ONE, "f")])[0].passed


def test_the_folder_works_when_it_is_copied_under_another_name(tmp_path: Path):
    tmp_path.chmod(0o755)
    shutil.copytree(ROOT / "helpers" / "verifier", tmp_path / "grader", ignore=shutil.ignore_patterns("__pycache__"))
    script = """
        from grader import Submission, grade_programs, isolation_report
        tests = "def check(candidate):\\n    assert candidate(2) == 4\\n"
        programs = ["def square(x):\\n    return x * x\\n", "def square(x):\\n    raise SystemExit(0)\\n"]
        print(*(verdict.outcome for verdict in grade_programs([Submission(p, "", tests, "square") for p in programs])))
        print(isolation_report()["separate processes"].on)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "passed error\nTrue\n", done.stderr


def test_the_examples_in_the_docstrings_are_right():
    assert tuple(doctest.testmod(pool)) == (0, 4)
