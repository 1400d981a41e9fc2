"""The judge: holds a problem's prompt and tests, and decides. It never runs a line of the program under test.

Started as a script in a new interpreter, the pool at the other end of stdin and the nursery at that of stdout. For each
submission it has the nursery start a player, and runs `check(candidate)` here, where `candidate` is a proxy: it sends
the arguments to the player as plain data and rebuilds plain data from the answer. What is compared is therefore always
a value made here, and only `check` coming to its end here is a pass.
"""

import builtins
import functools
import gc
import hashlib
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # the interpreter runs with -P
import isolation  # noqa: E402
import tally  # noqa: E402
import wire  # noqa: E402
from verdict import BROKEN_TESTS, ENDLESS_TESTS, Limits, Outcome, Result  # noqa: E402

del sys.path[0]

OWN_MEMORY = 2 << 30  # bytes, against what tests make of a returned value
OWN_CPU = 1.0  # seconds that the tests themselves may use, beyond what the program may
LOOK_EVERY = 0.1  # seconds between two looks at the clocks, at most
TESTS_FILE = "<tests>"
# A program may raise built-in exceptions into the tests, by name, but StopIteration: raised within
# `all(map(candidate, ...))` it would end the comparison early, as if it had held. The last two take more than a text.
NOT_RAISABLE = (StopIteration, StopAsyncIteration, ExceptionGroup, UnicodeError)


class Stop(BaseException):
    """Grading is over with this outcome. Not an Exception: tests that catch exceptions must not catch it."""

    def __init__(self, outcome: str, message: str) -> None:
        self.outcome, self.message = str(outcome), message


class Ended(Stop):
    """The program is over: where each assert counts by itself, none holds from here on."""


class NurseryLost(BaseException):
    """The nursery is gone, and with it the means to grade."""


class Candidate:
    """What the tests call in place of the function: it sends plain data out and rebuilds plain data from the answer.

    Has the nursery start a player, and end it on the way out. What ends grading is kept in `stopped` and raised again
    by every later call, so that tests which swallow exceptions cannot turn it into a pass. Raises NurseryLost.
    """

    def __init__(self, control: socket.socket, limits: Limits) -> None:
        self.stopped: Stop | None = None
        self.calls = 0
        self.raised: Exception | None = None
        self._ordering = False
        self._control, self._limits = control, limits

    def __enter__(self) -> "Candidate":
        self._pid, descriptors = self._order(wire.START)
        self._sock = socket.socket(fileno=descriptors[0])
        wire.wake_every(self._sock, LOOK_EVERY)
        self._channel = wire.Channel(self._sock.fileno(), self._look_at_clocks)
        self._deadline = time.monotonic() + self._limits.wall
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        if self._pid:
            with suppress(OSError):  # the next order shows it
                self._control.sendall(wire.REQUEST.pack(wire.DROP, *self._limits))

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        return self.ask("call", args, kwargs)

    def stop(self, reason: Stop) -> None:
        """End grading; only the first reason counts."""
        self.stopped = self.stopped or reason
        raise self.stopped

    def expire(self, *_: object) -> None:
        """End grading on a signal; on the next one, where an order to the nursery must not be cut short."""
        if not self._ordering:
            self.stop(Stop(Outcome.TIMEOUT, ENDLESS_TESTS))

    def ask(self, request: str, *details: object) -> object:
        """Send one request and return the value in its answer; an answer repeats the token of its request."""
        if self.stopped:
            raise self.stopped
        token = os.urandom(8).hex()
        given = [*details[0], *details[1].values()] if request == "call" else []
        try:
            self._channel.send((token, request, *details))
            answer = self._channel.receive()
        except wire.NotPlainError as error:
            self.stop(Stop(BROKEN_TESTS, f"the tests pass {error}"))
        except wire.WireError as error:
            self.stop(Stop(Outcome.FAILED, f"what should cross cannot: {error}"))
        except (EOFError, OSError):
            self.stop(self._why_gone())
        match answer:
            case (str(told), kind, value, dict(changed)) if told == token and _are_places(changed, given):
                for place, state in changed.items():
                    _write_back(given[place], state)
                match kind, value:
                    case "value", _:
                        return value
                    case "raised", (str(name), str(text)):
                        self.raised = _exception(name, text)
                        raise self.raised
                    case "unfit", str(reason):
                        self.stop(Ended(Outcome.FAILED, f"the function {reason}"))
                    case "stopped", "MemoryError":
                        self.stop(Ended(Outcome.OUT_OF_MEMORY, "used more memory than it may"))
                    case "stopped", str(name):
                        self.stop(Ended(Outcome.ERROR, f"stopped before the tests ended: {name}"))
        self.stop_forged()

    def stop_forged(self) -> None:
        self.stop(Stop(Outcome.FAILED, "the program sent a message of its own in place of an answer"))

    def _look_at_clocks(self) -> None:
        if isolation.cpu_seconds(self._pid) > self._limits.cpu:
            self.stop(Ended(Outcome.TIMEOUT, f"used more than {self._limits.cpu:g} s of processor time"))
        if time.monotonic() > self._deadline:
            self.stop(Ended(Outcome.TIMEOUT, f"not done after {self._limits.wall:g} s"))

    def _why_gone(self) -> Stop:
        status = self._end_player()
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if ended_by == wire.NOT_CONFINED:
            raise NurseryLost
        if ended_by == signal.SIGXCPU:
            return Ended(Outcome.TIMEOUT, "used more processor time than it may")
        return Ended(Outcome.ERROR, "the program ended its own process before the tests ended")

    def _end_player(self) -> int:
        pid, self._pid = self._pid, 0
        if not pid:
            raise NurseryLost
        try:
            return self._order(wire.END)[0]
        except NurseryLost:
            isolation.kill_player(pid)
            raise

    def _order(self, operation: bytes) -> tuple[int, list[int]]:
        self._ordering = True
        try:
            self._control.sendall(wire.REQUEST.pack(operation, *self._limits))
            reply, descriptors, _, _ = socket.recv_fds(self._control, wire.REPLY.size, 1)
            return *wire.REPLY.unpack(reply), descriptors
        except (OSError, struct.error) as error:
            raise NurseryLost from error
        finally:
            self._ordering = False


def grade(control: socket.socket, texts: tuple[str, ...], limits: Limits, each_assert: bool) -> Result:
    """Grade one submission. Raises NurseryLost."""
    program, prompt, test, entry_point = texts
    seed = hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()
    random.seed(hashlib.sha256((test + seed).encode("utf-8", "surrogatepass")).hexdigest())
    candidate = Candidate(control, limits)
    counts = tally.Counts(lambda: candidate.calls)
    try:
        with candidate, _own_time_limited(limits.cpu + OWN_CPU, candidate):
            try:
                candidate.ask("load", program, entry_point, seed)
            except Exception as error:
                candidate.stop(Ended(Outcome.ERROR, f"the program does not load: {_text(error)}"))
            _run_tests(texts, candidate, counts, each_assert)
            try:
                candidate.ask("end")  # a message that nobody asked for shows here in place of the farewell
            except Exception:
                candidate.stop_forged()
        if counts.held < counts.asserts:
            raise Ended(Outcome.FAILED, f"{counts.held} of {counts.asserts} asserts hold")
    except Ended as stop:
        return stop.outcome, _one_line(stop.message), counts.held, counts.asserts
    except Stop as stop:  # forged, or never ending: what held before counts for nothing
        return stop.outcome, _one_line(stop.message), 0, 0
    return str(Outcome.PASSED), "all tests passed", counts.held, counts.asserts


@functools.lru_cache(maxsize=256)
def _compile_tests(prompt: str, test: str, each_assert: bool) -> tuple[types.CodeType, types.CodeType]:
    """Compile what the problem brings. A prompt that is no Python (words to a chat model) brings no helpers."""
    try:
        tests = compile(tally.each_assert(test) if each_assert else test, TESTS_FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise Stop(BROKEN_TESTS, f"the tests are not Python: {error}") from None
    for text in (prompt, prompt + "\n    pass\n"):  # a prompt may end with its signature
        with suppress(SyntaxError, ValueError):
            return compile(text, "<prompt>", "exec", dont_inherit=True), tests
    return compile("", "<prompt>", "exec"), tests


def _run_tests(texts: tuple[str, ...], candidate: Candidate, counts: tally.Counts, each_assert: bool) -> None:
    """Execute prompt and tests, with the entry point's own name bound to the proxy, and run `check` to its end.

    Raises Stop for anything else, save that the asserts may fail where each is counted.
    """
    _, prompt, test, entry_point = texts
    prompt_code, test_code = _compile_tests(prompt, test, each_assert)
    names = {"__name__": "tests", tally.COUNTS: counts, tally.CAUGHT: (Exception, Ended)}
    check = None
    try:
        exec(prompt_code, names)
        names[entry_point] = candidate
        exec(test_code, names)
        check = names["check"]
        check(candidate)
    except (Stop, NurseryLost):
        raise
    except BaseException as error:
        if check is None and not candidate.calls:
            candidate.stop(Stop(BROKEN_TESTS, f"the prompt or the tests raise {_text(error)}"))
        if each_assert:
            counts.add((0, 0), False)
        if isinstance(error, MemoryError):
            candidate.stop(Ended(Outcome.OUT_OF_MEMORY, "the tests ran out of memory over what it returned"))
        candidate.stop(Ended(Outcome.FAILED, _explain(error, candidate, test)))
    if candidate.stopped:  # and swallowed by the tests
        raise candidate.stopped


@contextmanager
def _own_time_limited(seconds: float, candidate: Candidate) -> Iterator[None]:
    """Bound the tests' own processor time; where they hang in one long call, the second timer ends the judge.

    The pool takes that end for a time-out, too.
    """
    signal.signal(signal.SIGPROF, candidate.expire)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds + 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # first, as the other's signal may still come in between
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # and forget the candidate, and all that it refers to


def _write_back(mine: object, now: object) -> object:
    """Give what the tests passed the state that the function left it in; in place, so far as the kinds agree."""
    match mine, now:
        case list(), list():
            mine[:] = [*map(_write_back, mine, now), *now[len(mine) :]]
        case dict(), dict():
            merged = {key: _write_back(mine[key], state) if key in mine else state for key, state in now.items()}
            mine.clear()
            mine.update(merged)
        case set(), set():
            mine.clear()
            mine.update(now)
        case tuple(), tuple():
            return (*map(_write_back, mine, now), *now[len(mine) :])
        case _:
            return now
    return mine


def _are_places(keys: dict, given: list) -> bool:
    return all(type(key) is int and 0 <= key < len(given) for key in keys)


def _exception(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    raisable = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, NOT_RAISABLE)
    return (kind if raisable else RuntimeError)(text)


def _explain(error: BaseException, candidate: Candidate, test: str) -> str:
    if error is candidate.raised:
        return f"the function raised {_text(error)}"
    line, trace = "", error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == TESTS_FILE:
            line = test.split("\n")[trace.tb_lineno - 1]
        trace = trace.tb_next
    return f"{_text(error)} in the tests: {line}"


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # an integer too long to print
        return type(error).__name__


def _one_line(text: str) -> str:
    """Whatever a program says, safe to print: no line breaks, terminal codes, or halves of characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text[:500].split())[:200])


def main() -> None:
    with suppress(AttributeError, OSError):  # not Linux
        isolation.hide_memory()
    parent, control = wire.Channel(os.dup(0)), socket.socket(fileno=os.dup(1))
    os.dup2(2, 0)
    os.dup2(2, 1)  # what the tests print leads nowhere
    with suppress(OSError, ValueError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (OWN_MEMORY, OWN_MEMORY))
    with suppress(EOFError, OSError, NurseryLost):  # the parent sees the judge go, and starts both anew
        while True:
            texts, limits, each_assert = parent.receive()
            parent.send(grade(control, texts, Limits(*limits), each_assert))
            gc.collect()  # what the tests made of one program's values does not count against the next one's
            gc.freeze()  # what is left then, modules that tests import, is not looked through each time


if __name__ == "__main__":
    main()
