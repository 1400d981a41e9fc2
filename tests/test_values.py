"""What crosses between tests and program: each kind of value arrives as it is, and none as another or as code."""

import itertools
import json
import textwrap

import pytest

from helpers.verifier import Outcome, Submission, Verdict, close_pool, grade_programs, values

PROMPT = """
import enum
from collections import namedtuple
from dataclasses import dataclass
from typing import NamedTuple

P = namedtuple("P", "x y")

class Q(NamedTuple):
    x: int
    y: int = 2

@dataclass
class Box:
    value: object

@dataclass(frozen=True, slots=True)
class Cold:
    value: object

class Color(enum.Enum):
    RED = 1
    BLUE = 2

class Small(enum.IntEnum):
    ONE = 1

class Rights(enum.Flag):
    READ = 1
    WRITE = 2

class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next
    def total(self):
        return self.value + (self.next.total() if self.next else 0)

class Stack(list):
    def top(self):
        return self[-1]

class Empty(Exception):
    def __init__(self, text, code=3):
        super().__init__(text)
        self.code = code
"""
IMPORTS = """
import array, collections, datetime, decimal, fractions, pathlib
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime as moment, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
"""
EXACT = """
Decimal("1.50"); Decimal("-Infinity"); Decimal("NaN"); Fraction(1, 3); Fraction(-(10**400), 7)
date(2024, 2, 29); time(1, 2, 3, 4, fold=1); moment(2024, 1, 2, 3, 4, 5, 6); timedelta(-1, 2, 3); timezone.utc
moment(2024, 1, 2, tzinfo=timezone(timedelta(hours=5), "X")); time(1, tzinfo=timezone.utc)
range(0); range(5, -10**30, -3); deque([1, [2]], 3); deque(); bytearray(b"ab"); array.array("d", [0.5, 2.0])
Counter("aab"); OrderedDict([("b", 1), ("a", 2)]); defaultdict(list, {1: [2]}); defaultdict(None, {1: 2})
P(1, (2,)); Q(3); Box([1, Box(None)]); Cold({1}); Color.BLUE; Small.ONE; Stack([1, 2])
Rights.READ | Rights.WRITE; Rights(0)
{Color.RED: Cold(1), Q(1): deque([Decimal(1)])}; {Cold(1), Cold(2)}; [(Color.RED, {Fraction(1, 2)})]
"""
VALUES = [value.strip() for line in EXACT.strip().split("\n") for value in line.split(";")]


@pytest.fixture(scope="module", autouse=True)
def no_processes_left():
    yield
    close_pool()


def judge(program: str, check: str, prompt: str = PROMPT, **limits: object) -> Verdict:
    test = f"{IMPORTS}\ndef check(candidate):\n{textwrap.indent(textwrap.dedent(check), '    ')}"
    program = f"{prompt}\n{IMPORTS}\n{textwrap.dedent(program)}"
    return grade_programs([Submission(program, prompt, test, "f")], **limits)[0]


def passes(program: str, check: str, prompt: str = PROMPT, **limits: object) -> bool:
    verdict = judge(program, check, prompt, **limits)
    assert verdict.outcome in (Outcome.PASSED, Outcome.FAILED), verdict
    return verdict.passed


def test_values_arrive_as_they_are_both_ways():
    """The program compares what arrives with its own, and the tests compare what comes back, types included."""
    program = "MINE = [" + ", ".join(VALUES) + "]\ndef f(n, value=None):\n    own = MINE[n]\n    if value is None:\n"
    program += "        return own\n    return type(value) is type(own) and repr(value) == repr(own)"
    checks = [
        f"value, back = {value}, candidate({n})\n"
        f"assert type(back) is type(value) and repr(back) == repr(value), back\n"
        f"assert candidate({n}, value) is True"
        for n, value in enumerate(VALUES)
    ]
    assert judge(program, "\n".join(checks)).message == "all tests passed"


def test_values_keep_their_methods():
    checks = {
        "Counter('aab')": "most_common(1) == [('a', 2)]; back['missing'] == 0",
        "defaultdict(list)": "__getitem__(1) == []",
        "deque([1, 2], 2)": "maxlen == 2",
        "P(1, 2)": "x == 1; back._fields == ('x', 'y')",
        "Node(1, Node(2))": "total() == 3; back.next.value == 2",
        "Stack([1, 2])": "top() == 2",
        "Color.RED": "value == 1; back is Color.RED",
        "pathlib.Path('a') / 'b.py'": "suffix == '.py'; back.parts == ('a', 'b.py')",
    }
    for value, expected in checks.items():
        lines = [line.strip() for line in f"back.{expected}".split(";")]
        assert passes(
            f"def f(): return {value}", "back = candidate()\n" + "\n".join(f"assert {line}" for line in lines)
        ), value


def test_iterators_can_be_read_once_and_are_no_lists():
    program = "def f(n):\n    yield from range(n)"
    assert passes(program, "it = candidate(3)\nassert list(it) == [0, 1, 2] and list(it) == []")
    assert passes(program, "import types\nassert isinstance(candidate(3), types.GeneratorType)")
    assert not passes(program, "assert candidate(3) == [0, 1, 2]")
    assert not passes(program, "assert len(candidate(3)) == 3")
    assert passes("def f(xs): return zip(xs, map(str, xs))", "assert list(candidate([1])) == [(1, '1')]")
    assert passes("def f(it): return sum(it)", "assert candidate(iter([1, 2])) == candidate(n for n in (1, 2)) == 3")
    assert passes("def f(xs): return (x * 2 for x in xs)", "assert list(candidate(candidate([1, 2]))) == [4, 8]")
    assert passes(
        "def f(n):\n    yield 1\n    raise ValueError('x')",
        """
        it = candidate(1)
        assert next(it) == 1
        try:
            next(it)
        except ValueError as error:
            assert error.args == ('x',)
            return
        assert False""",
    )


def test_an_endless_iterator_is_read_as_far_as_the_tests_go():
    program = "import itertools\ndef f(): return itertools.count()"
    assert passes(program, "import itertools\nassert list(itertools.islice(candidate(), 5)) == [0, 1, 2, 3, 4]")
    assert passes(program, "import itertools\nassert sum(itertools.islice(candidate(), 50_000)) == 1249975000")
    assert not passes(program, "list(candidate())")
    assert "100,000 items" in judge(program, "sum(candidate())").message


def test_an_endless_iterator_as_an_argument_breaks_the_tests():
    verdict = judge("def f(it): return 1", "import itertools\nassert candidate(itertools.count()) == 1")
    assert verdict.outcome is Outcome.BROKEN_TESTS and "iterator" in verdict.message


def test_views_are_views():
    assert passes("def f(d): return d.keys()", "assert candidate({'b': 1, 'a': 2}) == {'a', 'b'}")
    assert passes("def f(d): return d.items()", "assert set(candidate({'b': 1})) == {('b', 1)}")
    assert passes("def f(d): return d.values()", "assert sorted(candidate({1: 3, 2: 1})) == [1, 3]")
    assert not passes("def f(d): return d.values()", "assert candidate({1: 3}) == [3]")
    assert passes("def f(xs): return sorted(xs)", "assert candidate({2: 1, 1: 2}.keys()) == [1, 2]")


def test_sets_keep_their_order_and_nan_has_no_identity():
    words = "[''.join(w) for w in ('hello world', 'the quick brown fox', 'abcdefghijklmnop', 'pack my box with five')]"
    assert passes("def f(s): return set(s)", f"for s in {words}: assert list(candidate(s)) == list(set(s))")
    assert passes("def f(s): return frozenset(s)", f"for s in {words}: assert [*candidate(s)] == [*frozenset(s)]")
    same = "for s in ({12, 13, 14, 15, 16}, set('hello world')): assert candidate(s) == tuple(s)"
    assert passes("def f(s): return tuple(s)", same)
    assert not passes("def f(s): return tuple(sorted(s, reverse=True))", same)
    nan = "def f(): return [float('nan')] * 2"
    assert passes("def f(): return [float('nan'), float('nan')]", "assert len(set(candidate())) == 2")
    assert passes(nan, "assert candidate() != candidate()")
    changed = "s = candidate('hello world')\ns.add('!')\nassert set(s) == set('hello world!') and len(s) == 9"
    assert passes("def f(s): return set(s)", changed)


def test_an_ordered_set_is_an_equal_set():
    for kind in (set, frozenset):
        made = values.in_order(kind, [3, 1, 2])
        assert (
            [*made] == [3, 1, 2] and made == {1, 2, 3} and len(made) == 3 and 1 in made and made | {4} == {1, 2, 3, 4}
        )
        assert "3, 1, 2" in repr(made)
        assert {*made.copy()} == {*(made | {1})} == {1, 2, 3}
    made = values.in_order(set, [3, 1, 2])
    made.remove(3)
    made.add(4)
    assert {*made} == {1, 2, 4} and sorted(made) == [1, 2, 4]


def test_a_function_may_return_or_change_its_own_argument():
    sort = "def f(xs):\n    xs.sort()\n    return xs"
    assert passes(sort, "xs = [2, 1]\nassert candidate(xs) is xs and xs == [1, 2]")
    assert not passes(sort, "xs = [1, 2]\nys = candidate(xs)\nassert ys == xs and ys is not xs")
    assert passes("def f(xs): return list(xs)", "xs = [1, 2]\nassert candidate(xs) is not xs")
    assert passes("def f(q): q.appendleft(0)", "q = deque([1])\ncandidate(q)\nassert q == deque([0, 1])")
    assert passes(
        "def f(c): c['a'] += 1", "c = Counter('a')\ncandidate(c)\nassert c == {'a': 2} and type(c) is Counter"
    )
    assert passes(
        "def f(n): n.next = Node(5)", "n = Node(1)\ncandidate(n)\nassert n.total() == 6 and type(n.next) is Node"
    )
    assert passes("def f(b): b.value += 1", "b = Box(1)\ncandidate(b)\nassert b == Box(2)")
    assert passes("def f(b): b[:] = b'xy'", "b = bytearray(b'a')\ncandidate(b)\nassert b == b'xy'")


def test_long_chains_cycles_and_shared_instances():
    chain = "head = None\nfor n in range(3000): head = Node(n, head)\n"
    length = "n, at = 0, back\nwhile at: n, at = n + 1, at.next\nassert n == 3000"
    assert passes("def f(x): return x", f"{chain}back = candidate(head)\nassert back is head\n{length}")
    assert passes("def f(x): return [x.next]", f"{chain}back = candidate(Node(0, head))[0]\n{length}")
    ring = "def f():\n    a = Node(1)\n    a.next = Node(2, a)\n    return [a, a]"
    assert passes(ring, "a, b = candidate()\nassert a is b and a.next.next is a")


def test_exceptions_cross_with_class_args_and_attributes():
    checks = {
        "raise KeyError('x')": ("KeyError", "e.args == ('x',) and str(e) == \"'x'\""),
        "raise ValueError('a', 2)": ("ValueError", "e.args == ('a', 2)"),
        "b'\\xff'.decode()": ("ValueError", "type(e) is UnicodeDecodeError and e.start == 0 and 'invalid' in str(e)"),
        "raise OSError(2, 'gone')": ("FileNotFoundError", "e.errno == 2"),
        "open('/no/such')": ("OSError", "e.errno == 2 and '/no/such' in str(e)"),
        "import json; json.loads('{')": ("json.JSONDecodeError", "e.pos == 1 and e.msg"),
        "Decimal('x')": ("decimal.InvalidOperation", "True"),
        "raise Empty('text', 4)": ("Empty", "e.code == 4 and str(e) == 'text'"),
        "raise ExceptionGroup('g', [ValueError(1), Empty(2)])": ("ExceptionGroup", "type(e.exceptions[1]) is Empty"),
        "next(iter([]))": ("RuntimeError", "True"),
        "class E(KeyError):\n        def __str__(self): return 'own'\n    raise E(1)": (
            "KeyError",
            "e.args == ('own',)",
        ),
    }
    for line, (kind, holds) in checks.items():
        check = f"import json\ntry:\n    candidate()\nexcept {kind} as e:\n    assert {holds}, (type(e), e.args)\n"
        check += "    return\nassert False"
        assert judge(f"def f():\n    {line}", check).message == "all tests passed", line
    assert passes(
        "def f(): return ValueError('a')", "assert isinstance(candidate(), ValueError) and candidate().args == ('a',)"
    )


def test_a_coroutine_gives_its_result():
    assert passes("async def f(x): return x + 2", "import asyncio\nassert asyncio.run(candidate(1)) == 3")
    raising = "import asyncio\ntry:\n    asyncio.run(candidate())\nexcept ValueError:\n    return\nassert False"
    assert passes("async def f(): raise ValueError", raising)


def test_large_values_cross():
    assert passes("def f(n): return 'x' * n", "assert len(candidate(9_000_000)) == 9_000_000")
    assert passes("def f(xs): return len(xs)", "assert candidate(list(range(1_000_000))) == 1_000_000")
    verdict = judge("def f(x): return 1", "assert candidate('x' * 30_000_000) == 1")
    assert verdict.outcome is Outcome.BROKEN_TESTS and "24 MiB" in verdict.message
    deep = "def f(n):\n    x = []\n    for _ in range(n): x = [x]\n    return x"
    assert passes(deep, "x = candidate(150)\nfor _ in range(150): x = x[0]\nassert x == []")


@pytest.mark.parametrize(
    "value", ["lambda: 1", "int", "__import__('re').match('a', 'a')", "Mine()", "__import__('sys')"]
)
def test_what_does_not_cross_fails_a_program_and_breaks_tests(value: str):
    own = "class Mine: pass\n"
    assert judge(f"{own}def f(): return {value}", "candidate()").outcome is Outcome.FAILED
    broken = judge("def f(x): return 1", f"{own}candidate({value})")
    assert broken.outcome is Outcome.BROKEN_TESTS and not broken.graded


# --- attacks ---------------------------------------------------------------------------------------------------------

# Programs that would pass if their values were rebuilt by their own code, or as more than data. Each with a check that
# they must fail.
DISHONEST = {
    "an instance that is equal to everything": (
        "Box.__eq__ = lambda *_: True\ndef f(): return Box(1)",
        "assert candidate() == Box(2)",
    ),
    "a class of the prompt's name": (
        "class Box:\n    __eq__ = lambda *_: True\ndef f(): return Box()",
        "assert candidate() == Box(2)",
    ),
    "an attribute in place of a method": (
        "def f():\n    n = Node(1)\n    n.total = Node(7)\n    return n",
        "assert candidate().total()",
    ),
    "a false class of an instance": (
        "class Sly(Box): pass\nSly.__name__ = 'Box'\ndef f(): return Sly(1)",
        "assert candidate() == Box(1)",
    ),
    "a member that the enum does not have": (
        "def f():\n    m = object.__new__(Color)\n    m._name_, m._value_ = 'GREEN', 1\n    return m",
        "assert candidate() is not None",
    ),
    "a namedtuple of another length": (
        "def f(): return tuple.__new__(P, (1, 2, 3))",
        "assert isinstance(candidate(), P)",
    ),
    "a counter that counts everything": (
        "class C(Counter):\n    __missing__ = lambda *_: 9\ndef f(): return C()",
        "assert candidate()['x'] == 9",
    ),
    "a default that is always right": (
        "class Any:\n    __eq__ = lambda *_: True\ndef f(): return defaultdict(Any)",
        "assert candidate()['x'] == 7",
    ),
    "a number that is equal to everything": (
        "class D(Decimal):\n    __eq__ = lambda *_: True\n    __hash__ = Decimal.__hash__\ndef f(): return D(1)",
        "assert candidate() == Decimal(2)",
    ),
    "an iterator in place of a list": ("def f(): return iter([1, 2])", "assert candidate() == [1, 2]"),
    "an ordered dict in another order": (
        "def f(): return OrderedDict(b=1, a=2)",
        "assert candidate() == OrderedDict(a=2, b=1)",
    ),
    "an exception of the grader": (
        "class E(Exception): pass\nE.__module__, E.__qualname__ = 'judge', 'Stop'\ndef f(): raise E",
        "try:\n    candidate()\nexcept RuntimeError:\n    return\nexcept BaseException:\n    pass\nassert False",
    ),
    "an exception that is no exception": (
        "class E(Exception): pass\nE.__module__, E.__qualname__ = 'builtins', 'SystemExit'\ndef f(): raise E",
        "try:\n    candidate()\nexcept SystemExit:\n    return\nassert False",
    ),
    "an end to the comparison": ("def f(x):\n    raise StopIteration", "assert all(map(candidate, [1, 2]))"),
    "an end to the comparison by an iterator": (
        "def f(x):\n    def g():\n        raise StopIteration\n        yield\n    return g()",
        "assert all(list(g) for g in map(candidate, [1, 2]))",
    ),
}


@pytest.mark.parametrize("name", [name for name in DISHONEST if name != "an exception of the grader"])
def test_dishonest_values_fail(name: str):
    program, check = DISHONEST[name]
    assert not judge(program, check).passed


def test_an_exception_of_the_grader_s_name_is_raised_as_another():
    """The name leads nowhere, so the class below it counts."""
    program, check = DISHONEST["an exception of the grader"]
    assert judge(program, check).message != "all tests passed"
    assert passes(program, "try:\n    candidate()\nexcept Exception as e:\n    assert type(e) is Exception")


RAN = "def ran(*_): raise SystemExit('code of the class ran')\n"


@pytest.mark.parametrize(
    "method", ["__init__", "__reduce__", "__setstate__", "__setattr__", "__new__", "__post_init__"]
)
def test_rebuilding_an_instance_runs_no_method_of_its_class(method: str):
    prompt = f"class Armed:\n    pass\n{RAN}Armed.{method} = ran\n"
    program = "def f():\n    made = object.__new__(Armed)\n    made.__dict__['value'] = 1\n    return made"
    assert passes(program, "assert candidate().value == 1", prompt)


def test_a_name_from_a_program_imports_nothing():
    program = "class E(ValueError): pass\nE.__module__, E.__qualname__ = 'this', 'E'\ndef f(): raise E"
    check = "import sys\ntry:\n    candidate()\nexcept ValueError:\n    pass\nassert 'this' not in sys.modules"
    assert passes(program, check)


FORGED = """
{"flag":["Color",1]} {"flag":["Rights",99]} {"flag":["Rights","1"]}
{"object":0} {"given":0} {"given":true} {"given":-1} {"objects":[[],{"object":-1}]} {"objects":[["os",null,[]],1]}
{"member":["Color","mro"]} {"held":["Color",1]} {"held":["Node",1]} {"held":["P",[1,2]]} {"held":["P",{"tuple":[1]}]}
{"objects":[[["Node",null,[["total",1]]]],{"object":0}]} {"objects":[[["Node",[1],[]]],{"object":0}]}
{"objects":[[["Color",null,[]]],{"object":0}]} {"objects":[[["Empty",null,[]]],{"object":0}]} {"Fraction":["1e9",null]}
{"Fraction":[1,0]} {"Decimal":[1]} {"Decimal":["x"]} {"array":["u",[1]]} {"array":["P",[]]} {"range":[1,2,0]}
{"date":[0,0,0]} {"datetime":[1,1,1,0,0,0,0,"x",0]} {"defaultdict":["eval",{"dict":[]}]} {"deque":[[],-1]}
{"iterator":[true,[],0,0]} {"exception":[[["builtins","exec"]],[],[]]} {"ndarray":["O",[1],{"bytes":"00"}]}
{"coroutine":1} {"keys":[[[]]]} {"items":[1]} {"path":["a\\u0000",1]} {"timezone":[1,"x"]}
"""


@pytest.mark.parametrize("body", FORGED.split(), ids=lambda body: body[:40])
def test_forged_messages_are_refused_or_data(body: str):
    """Whatever a message says, it makes no instance that the class itself could not hold, and raises nothing else."""
    names: dict = {"__name__": "tests"}
    exec(PROMPT, names)
    codec = values.Codec()
    codec.use_classes({n: k for n, k in names.items() if isinstance(k, type) and k.__module__ == "tests"})
    try:
        value = codec.loads(body.encode())
    except values.CrossingError:
        return
    if isinstance(value, names["Rights"]):
        # Some versions of Python drop the bits of a flag that have no name.
        assert value in (names["Rights"].READ, names["Rights"](3))
        return
    assert body.startswith(('{"exception"', '{"objects":[[["Node",[1]')), value
    assert type(value) is RuntimeError or vars(value) == {}


def test_a_program_cannot_break_the_tests_by_what_it_returns():
    """A value that comes back may always be passed on, so that nobody escapes a verdict that way."""
    passed_on = "value = candidate(None)\nassert candidate([[value]]) == 1"
    for value in ("'x' * 16_700_000", "deep(190)", "(i for i in range(10))", "{1: {2}}.items()", "Node(1, Node(2))"):
        program = "def deep(n):\n    x = []\n    for _ in range(n): x = [x]\n    return x\n"
        program += f"def f(x): return {value} if x is None else 0"
        assert judge(program, passed_on).outcome is Outcome.FAILED, value


def test_a_forged_rest_of_an_iterator_ends():
    body = json.dumps({"iterator": [True, [], 0]}).encode()
    endless = values.Codec(fetch=lambda rest: ([], 0))
    with pytest.raises(RuntimeError, match="100,000 items"):
        list(endless.loads(body))
    growing = values.Codec(fetch=lambda rest: ([1] * 10_000, 0))
    assert len([*itertools.islice(growing.loads(body), 90_000)]) == 90_000
    with pytest.raises(RuntimeError, match="100,000 items"):
        list(growing.loads(body))


def test_numpy_arrays_cross_if_the_caller_allows_numpy():
    pytest.importorskip("numpy")
    program = "import numpy as np\ndef f(x): return np.asarray(x) * 2"
    check = "import numpy as np\nback = candidate(np.arange(3))\n"
    check += "assert back.tolist() == [0, 2, 4] and (back == [0, 2, 4]).all()"
    assert passes(program, check, modules=("numpy",))
    assert passes(
        "import numpy as np\ndef f(x): return np.float64(x)", "assert candidate(1) == 1.0", modules=("numpy",)
    )
