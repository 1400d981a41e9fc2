"""The codec: any plain value crosses unchanged, and any bytes from a player end in a defined verdict."""

import collections
import socket
import struct

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from helpers.verifier import Outcome, Submission, close_pool, grade_programs, values, wire

settings.register_profile("course", deadline=None, derandomize=True, database=None)
settings.load_profile("course")

SURROGATES = st.text(st.sampled_from("\ud83d\ude00\udfffa"), max_size=5)  # two that meet look like one character
TEXTS = st.text(st.characters(exclude_categories=()), max_size=20) | SURROGATES
HUGE = st.builds(lambda bits, below: below - (1 << bits), st.integers(60, 14_000), st.integers(-9, 9))
NUMBERS = st.integers() | HUGE | HUGE.map(abs) | st.floats() | st.complex_numbers()
ATOMS = st.none() | st.booleans() | NUMBERS | TEXTS | st.binary(max_size=20)
KEYS = ATOMS | st.lists(ATOMS, max_size=3).map(tuple) | st.frozensets(ATOMS, max_size=3)
CONTAINERS = st.lists(ATOMS, max_size=4) | st.sets(KEYS, max_size=4) | st.dictionaries(KEYS, ATOMS, max_size=4)


def nested(inner: st.SearchStrategy) -> st.SearchStrategy:
    lists = st.lists(inner, max_size=4)
    return lists | lists.map(tuple) | st.dictionaries(KEYS, inner, max_size=4)


VALUES = ATOMS | CONTAINERS | nested(CONTAINERS | KEYS) | nested(nested(KEYS | CONTAINERS))
SAME = '''
def same(one, other):
    """Whether two plain values are the same to the last bit, type and order, NaN and -0.0 included."""
    if type(one) is not type(other):
        return False
    if type(one) is float:
        return repr(one) == repr(other)
    if type(one) is complex:
        return same(one.real, other.real) and same(one.imag, other.imag)
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) in (set, frozenset):
        return len(one) == len(other) and all(any(same(item, twin) for twin in other) for item in one)
    if type(one) is dict:
        return same([*one.items()], [*other.items()])
    return one == other
'''
exec(SAME)


@pytest.fixture(scope="module", autouse=True)
def no_processes_left():
    yield
    close_pool()


class Counter(dict):
    """A class that only shares its name with one of Python's library."""


def test_a_class_is_known_by_what_it_is_and_not_by_its_name():
    assert type(values.loads(values.dumps(Counter(a=1)))) is dict
    assert type(values.loads(values.dumps(collections.Counter(a=1)))) is collections.Counter


@given(VALUES)
def test_any_plain_value_survives(value: object):
    assert same(values.loads(values.dumps(value)), value)  # noqa: F821


@given(VALUES, st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_messages_arrive_in_whatever_pieces(value: object, sizes: list[int]):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        body = values.dumps(value)
        rest, seen = wire.HEADER.pack(len(body)) + body, []

        def one_piece_more() -> None:
            nonlocal rest
            size = sizes[len(seen) % len(sizes)]
            seen.append(theirs.send(rest[:size]) if rest else 0)
            rest = rest[size:]

        one_piece_more()
        assert same(values.loads(wire.Channel(ours.fileno(), one_piece_more).receive()), value)  # noqa: F821
        assert rest == b""


def is_plain(value: object) -> bool:
    if type(value) is dict:
        return is_plain([*value.items()])
    if type(value) in (list, tuple, set, frozenset):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, complex, str, bytes)


@st.composite
def almost_messages(draw: st.DrawFn) -> bytes:
    """A right message with a few bytes changed."""
    body = bytearray(values.dumps(draw(VALUES)))
    for _ in range(draw(st.integers(0, 3))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.sampled_from(b'0"[]{},:-.enaItxfu\\\xff'))
    return bytes(body)


JSON_NAMES = st.sampled_from(["int", "text", "bytes", "complex", "dict", "tuple", "set", "frozenset", "object"])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JSON_NAMES | TEXTS, inner, max_size=2),
    max_leaves=10,
).map(lambda tree: values.encode(tree).encode())
BODIES = st.binary(min_size=1, max_size=60) | almost_messages() | JSON


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@given(BODIES)
def test_any_bytes_are_plain_data_or_refused(body: bytes):
    try:
        value = values.loads(body)
    except values.CrossingError:
        return
    assert is_plain(value)


@given(BODIES | BODIES.map(framed) | st.lists(BODIES.map(framed), max_size=3).map(b"".join))
def test_any_stream_ends_in_a_value_or_a_refusal(stream: bytes):
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(stream)
        try:
            value = values.loads(wire.Channel(ours.fileno()).receive())
        except (ValueError, EOFError):
            return
    assert is_plain(value)


REFUSED = """
{} [1, {"int":1} {"int":"x"} {"set":[[]]} {"dict":[[1]]} {"dict":[[[],1]]} {"dict":{"ab":1}} {"object":[]} {"text":"f"}
{"set":[],"list":[]} {"complex":[1.0]} {"complex":["1",2]} {"bytes":"0"} {"tuple":"ab"} {"list":[]} \xff
"""
REFUSED_TOO = ["", "[" * 100_000, "[" * 300 + "]" * 300, "9" * 5000]


@pytest.mark.parametrize("body", REFUSED.split() + REFUSED_TOO, ids=lambda body: body[:20])
def test_what_no_value_encodes_to_is_refused(body: str):
    with pytest.raises(values.CrossingError):
        values.loads(body.encode("latin-1"))


def test_a_second_message_is_refused():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(framed(b"1") + framed(b"2"))
        with pytest.raises(ValueError, match="a second message"):
            wire.Channel(ours.fileno()).receive()


# --- through a program -----------------------------------------------------------------------------------------------


def examples(strategy: st.SearchStrategy, number: int) -> list:
    """What hypothesis would try, all at once: programs are graded by the batch."""
    found = []

    @settings(max_examples=number, phases=[Phase.generate])
    @given(strategy)
    def collect(value: object) -> None:
        found.append(value)

    collect()
    return found


def outcomes(programs: list[str], test: str) -> set[Outcome]:
    return {verdict.outcome for verdict in grade_programs([Submission(program, "", test, "f") for program in programs])}


def test_any_bytes_from_a_program_fail_it():
    """Written in place of the answer, before it, and while the program loads."""
    write = "    import os\n    os.write(3, {!r})\n"
    streams = examples(BODIES | BODIES.map(framed), 100)
    before = [f"def f():\n{write.format(stream)}    return 7\n" for stream in streams]
    instead = [f"def f():\n{write.format(framed(stream))}    os._exit(0)\n" for stream in streams]
    loading = [f"def f():\n    return 7\nif True:\n{write.format(stream)}" for stream in streams]
    test = "def check(candidate):\n    assert candidate() == 7\n"
    assert outcomes(before + loading, test) == {Outcome.FAILED}
    assert outcomes(instead, test) <= {Outcome.FAILED, Outcome.ERROR}
    assert outcomes(["def f():\n    return 7\n"], test) == {Outcome.PASSED}


NAMES = "from math import inf, nan\ninfj, nanj = complex(0, inf), complex(0, nan)\n"


def test_any_plain_value_crosses_both_ways():
    test = f"{NAMES}{SAME}\nVALUES = {examples(VALUES, 200)!r}\n"
    test += "def check(candidate):\n    for value in VALUES:\n        assert same(candidate(value), value), value\n"
    assert outcomes(["def f(x):\n    return x\n"], test) == {Outcome.PASSED}


def test_what_a_function_does_to_its_arguments_is_seen():
    """A function may turn any list, set or dict into any other of its kind, also one inside another argument."""
    pairs = [
        (one, other) for one, other in examples(st.tuples(CONTAINERS, CONTAINERS), 300) if type(one) is type(other)
    ]
    assert len(pairs) > 50
    program = """
def f(xs, wanted, *, inner=None):
    if inner is not None:
        return f(inner[0][1], wanted)
    xs.clear()
    xs.extend(wanted) if isinstance(xs, list) else xs.update(wanted)
"""
    test = (
        f"{NAMES}{SAME}\nPAIRS = {pairs!r}\n"
        + """
import copy
def check(candidate):
    for xs, wanted in PAIRS:
        again, kept = copy.deepcopy(xs), copy.deepcopy(wanted)
        candidate(xs, wanted)
        assert same(xs, kept) and same(wanted, kept)
        candidate(None, wanted, inner=[(1, again)])
        assert same(again, kept)
"""
    )
    assert outcomes([program], test) == {Outcome.PASSED}
