"""Programs that cheat or reach out score nothing and harm nothing, and would succeed if nothing stopped them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.problems import Problem, load_problems
from helpers.verifier import Outcome, Submission, Verdict, close_pool, grade_programs, pool
from helpers.verifier.verdict import Job
from tests import attacks
from tests.attacks import system

HUMANEVAL = load_problems("humaneval")
SOME = HUMANEVAL[:6]
ROOT = Path(__file__).resolve().parent.parent
ORDINARY = 12345  # a user id that owns nothing here
GOOD = "def f(x):\n    return 6\n"
SIX = attacks.EXPECTS_SIX
FIT = "import sys, os; sys.exit(sys.version_info < (3, 11) or not os.access('helpers', os.R_OK))"


@pytest.fixture(scope="module", autouse=True)
def no_processes_left():
    yield
    close_pool()


def submission(problem: Problem, completion: str) -> Submission:
    return Submission(problem.prompt + completion, problem.prompt, problem.test, problem.entry_point)


def right(problems: list[Problem]) -> list[Submission]:
    return [submission(problem, problem.canonical_solution) for problem in problems]


def outcomes(verdicts: list[Verdict]) -> Counter:
    return Counter(str(verdict.outcome) for verdict in verdicts)


def grade_without(layers: str, items: list[Submission]) -> list[str]:
    """How the attacks end if these layers are left out."""
    own = pool.Pool()
    try:
        setup = pool.Setup(omit=tuple(layers.split(", ")))
        return [result[0] for result in own.grade([Job(item, pool.limits_for()) for item in items], 2, setup)]
    finally:
        own.close()


# --- on the truth ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", attacks.IN_ONE_PROCESS)
def test_cheat_passes_in_the_process_of_the_tests_and_not_here(name: str):
    program, test = attacks.IN_ONE_PROCESS[name]
    there = subprocess.run([sys.executable, "-c", f"{program}\n{test}\ncheck(f)"], capture_output=True, timeout=60)
    assert there.returncode == 0, there.stderr
    [verdict] = grade_programs([Submission(program, "", test, "f")])
    [by_asserts] = grade_programs([Submission(program, "", test, "f")], each_assert=True)
    assert not verdict.passed and by_asserts.share == 0


WALK_AND_COUNT = """
import json, sys
passed = 0
for line in sys.stdin:
    program, test, entry_point = json.loads(line)
    names = {}
    try:
        exec(program + test, names)
        names["check"](names[entry_point])
        passed += 1
    except Exception:
        pass
print(passed)
"""


def test_the_walk_finds_the_tests_where_they_are_in_its_process():
    """In the process that holds the tests, the same program passes most problems."""
    walk = attacks.in_body(attacks.WALK)
    lines = "".join(json.dumps([p.prompt + walk, p.test, p.entry_point]) + "\n" for p in HUMANEVAL[:30])
    command = [sys.executable, "-c", WALK_AND_COUNT]
    assert int(subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60).stdout) >= 24


def test_an_answer_of_its_own_is_a_live_forgery():
    """The forger does reach the channel: an answer that is right, and is the only one, is as good as returning it."""
    forged = attacks.ANSWER.format(answers='[("value", 7)]') + "import os\nos.read(3, 9)"
    program = f"def f(x):\n{attacks.in_body(forged)}"
    for expected in (7, 8):
        test = f"def check(candidate):\n    assert candidate(1) == {expected}\n"
        [verdict] = grade_programs([Submission(program, "", test, "f")])
        assert verdict.outcome is Outcome.FAILED
        assert ("message of its own" in verdict.message) == (expected == 7)


@pytest.mark.parametrize(("value", "passed"), [(7, True), (8, False)])
def test_a_program_may_serve_the_grader_itself_but_not_the_farewell(value: int, passed: bool):
    """The first line shows that the others are live."""
    for farewell in ("'value', None", "'raised', ('ValueError', 'x')", "'raised', ('OSError', 'x')", "'unfit', 'x'"):
        program = f"def f(x):\n{attacks.in_body(attacks.FAREWELL.format(value=value, farewell=farewell))}"
        test = "def check(candidate):\n    assert candidate(1) == 7\n"
        [verdict] = grade_programs([Submission(program, "", test, "f")])
        assert verdict.outcome is (Outcome.PASSED if passed and "value" in farewell else Outcome.FAILED)


@pytest.mark.parametrize("changed", ["{5: [1]}", "[]", "{'x': 1}", "{0.0: [1]}", "{-1: [1]}", "{True: [1]}"])
def test_arguments_that_were_never_passed_cannot_be_changed(changed: str):
    answer = attacks.ANSWER.format(answers='[("value", 7)]')
    forged = answer.replace("{})))", f"{changed})))\n        import os; os.read(3, 1)")
    program = f"def f(x):\n{attacks.in_body(forged)}"
    [verdict] = grade_programs([Submission(program, "", "def check(candidate):\n    candidate([1])\n", "f")])
    assert "a message of its own" in verdict.message


def test_a_message_after_the_last_answer_is_no_pass():
    program = "import os\ndef f():\n    os.write(3, b'\\0\\0\\0\\1')\n    return 1\n"
    test = "def check(candidate):\n    assert candidate() == 1\n"
    assert grade_programs([Submission(program, "", test, "f")])[0].outcome is Outcome.FAILED


def test_what_one_program_returned_takes_no_memory_from_the_next():
    """In one judge, whose memory is limited: what the tests make of a value is gone when the next program comes."""
    try:
        bytes(1_200_000_000)
    except MemoryError:
        pytest.skip("no such memory is to be had here")
    kept = "def check(candidate):\n    zeros = bytes(candidate())\n    assert zeros == 1, candidate()\n"
    wanted = "def check(candidate):\n    assert bytes(candidate())\n"
    program = "def f():\n    return 1_200_000_000  # {}\n"
    batch = [Submission(program.format(number), "", test, "f") for number in range(3) for test in (kept, wanted)]
    assert [str(verdict.outcome) for verdict in grade_programs(batch, workers=1)] == ["failed", "passed"] * 3


def test_values_that_are_slow_to_judge_cost_one_time_out_each(monkeypatch: pytest.MonkeyPatch):
    """Nothing is graded a second time, even if the judge hangs in one long call, and the good programs pass."""
    submitted = []
    submit = pool.Worker.submit
    monkeypatch.setattr(pool.Worker, "submit", lambda worker, job: submitted.append(job) or submit(worker, job))
    slow = [
        Submission(f"def f():\n    return {value}\n", "", f"def check(candidate):\n    {line}\n", "f")
        for value, line in attacks.SLOW_TO_JUDGE.values()
    ]
    batch = [entry for item in slow for entry in (item, *right(SOME[:1]))]
    assert outcomes(grade_programs(batch, timeout=0.2, workers=2)) == {"timeout": len(slow), "passed": len(slow)}
    assert len(submitted) == len(slow) + 1  # the good ones are all the same


def test_a_long_answer_does_not_outweigh_the_asserts_that_fail():
    test = "def check(candidate):\n    for x in candidate(3):\n        assert x > 0\n"
    test += "    for n in (1, 2):\n        assert candidate(n) == [n]\n    assert candidate(0) == []\n"
    programs = ["def f(n):\n    return [1] * 1000\n", "def f(n):\n    return [n] * (n > 0)\n"]
    verdicts = grade_programs([Submission(program, "", test, "f") for program in programs], each_assert=True)
    assert [verdict.share for verdict in verdicts] == [1 / 3, 1.0]


@pytest.mark.parametrize(
    "program", ["#" + "\U0001f600" * 131_000, "'" + "\1" * 131_000 + "'", "#" + "\U0001f600" * 400_000]
)
def test_a_program_that_grows_on_the_way_spoils_no_batch(program: str):
    batch = [Submission(f"{program}\n{GOOD}", "", SIX + "#" * 2_400_000, "f"), *right(SOME)]
    first, *others = grade_programs(batch)
    assert first.outcome is (Outcome.PASSED if len(program) < pool.MAX_PROGRAM else Outcome.ERROR)
    assert outcomes(others) == {"passed": len(SOME)}


def test_what_a_program_says_is_safe_to_print():
    program = "def f(x):\n    raise ValueError('\\x1b[2J\\u202e\\ud800\\r\\n' + 'x' * 10**6)\n"
    message = grade_programs([Submission(program, "", SIX, "f")])[0].message
    assert message.isprintable() and len(message) <= 200


@pytest.mark.parametrize("killer", [attacks.KILL_NURSERY, attacks.KILL_JUDGES], ids=["nursery", "judges"])
def test_killing_its_graders_is_an_error_at_most_and_harms_nobody_else(killer: str):
    good = right(HUMANEVAL[:30])
    batch = [*good[:15], submission(HUMANEVAL[40], attacks.in_body(killer)), *good[15:]]
    for layers, expected in (("", "failed"), (", ".join(system.REACHING_OUT), "error")):
        ended = grade_without(layers, batch)
        assert ended.pop(15) == expected
        assert set(ended) == {"passed"}


# --- on the machine --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    """Copy the verifier and the attacks to a folder that every user may read."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    for folder in ("helpers/verifier", "tests/attacks"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module", params=["this user", "an ordinary user"])
def found(request: pytest.FixtureRequest, copy: Path) -> dict:
    """What became of all attacks: with all layers, with none, and with one at a time."""
    python, user = sys.executable, {}
    if request.param == "an ordinary user":
        if os.geteuid() != 0:
            pytest.skip("this user is one")
        user = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}
        python = interpreter_for(user, copy)
    command = [python, "-m", "tests.attacks.system"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120, **user)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def interpreter_for(user: dict, place: Path) -> str:
    """Return a Python that this user may run: not every home folder lets others in."""
    for python in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        try:
            if subprocess.run([python, "-c", FIT], cwd=place, **user).returncode == 0:
                return python
        except OSError:
            continue
    pytest.skip("no Python here that an ordinary user may run")


def test_attacks_are_stopped_and_harm_nothing(found: dict):
    """With every layer that this machine offers. The good programs among them pass."""
    ended, neighbours_passed, harmed = found["results"]["all"]
    assert [name for name in ended if ended[name] == "passed"] == []
    assert neighbours_passed and not harmed
    assert len(ended) >= (30 if "seccomp" in found["layers"] else 3)


def test_attacks_get_through_without_layers(found: dict):
    """Otherwise the test above would show nothing. What the machine itself forbids its user does not count."""
    ended, neighbours_passed, harmed = found["results"]["none"]
    assert {name for name in ended if ended[name] != "passed"} <= {*found["impossible"]}
    assert neighbours_passed and harmed
    assert list(ended.values()).count("passed") >= 30


def test_each_layer_stops_its_attacks_alone(found: dict):
    alone = {layer: result for layer, result in found["results"].items() if layer not in ("all", "none")}
    through = [(layer, name) for layer, (ended, _, _) in alone.items() for name in ended if ended[name] == "passed"]
    assert through == []
    assert [layer for layer, (_, neighbours_passed, harmed) in alone.items() if harmed or not neighbours_passed] == []
    of_their_own_test = {"user namespace", "hidden memory", "cpu limit", "session", "ends with parent"}
    assert {*found["layers"]} - {*alone} <= of_their_own_test
