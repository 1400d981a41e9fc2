"""The judge: holds a problem's prompt and tests, and decides. It never runs a line of the program under test.

The pool starts it as a script in a new interpreter. The pool is at the other end of its stdin, the nursery at the other
end of its stdout. For each submission the judge asks the nursery for a player and runs `check(candidate)` itself.
`candidate` is a proxy: it sends the arguments to the player as data, and rebuilds the answer from data. So the tests
only ever compare values that were made here, and a program passes only if `check` comes to its end here.

This module is longer than 300 lines because the whole exchange with a program is judged in one place.
"""

import functools
import gc
import hashlib
import importlib
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
import types
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# The interpreter runs with -P, so this folder is not on its path.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import isolation
import tally
import values
import wire
from verdict import ENDLESS_TESTS, KILLED, Job, Limits, Outcome, Result, Submission

del sys.path[0]

# Bytes for the judge itself, in case tests build something huge from a returned value.
OWN_MEMORY = 2 << 30
# Seconds of processor time for the tests themselves, in addition to the program's own.
OWN_CPU = 1.0
# The judge wakes at least this often, in seconds, to look at the player's clocks.
LOOK_EVERY = 0.1
# Seconds that a program may sleep. One that waits for the processor is not asleep.
MAX_SLEEP = 2.0
# Seconds of processor time that program and tests each get for every byte that crosses, as values take time to encode.
SECONDS_PER_BYTE = 5e-8
# Only something outside sends these signals to a player. (Without seccomp the program itself could, but a player that
# is killed again and again does not pass either.)
OUTSIDE_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM, signal.SIGALRM}
TESTS_FILE = "<tests>"


class Stop(BaseException):
    """Grading is over with this outcome. Not an Exception, because tests that catch exceptions must not catch it."""

    def __init__(self, outcome: str, message: str) -> None:
        self.outcome, self.message = str(outcome), message


class Ended(Stop):
    """The program is over. If each assert counts by itself, the remaining ones fail."""


class NurseryLost(BaseException):
    """The nursery is gone, so nothing can be graded with it."""


class Player:
    """The process that runs the program: asks the nursery for it, talks to it, watches its clocks and ends it.

    All methods raise NurseryLost if the nursery is gone.
    """

    def __init__(self, control: socket.socket, limits: Limits) -> None:
        # True while an order to the nursery is under way, which must not be cut short.
        self.ordering = False
        self.confined = True
        self._control, self._limits = control, limits
        self._cpu_limit = limits.cpu
        self._asked = self._waited = self._slept = self._cpu = 0.0

    def __enter__(self) -> "Player":
        self._pid, _, self.confined, [descriptor] = self._order(wire.START)
        self._sock = socket.socket(fileno=descriptor)
        wire.limit_waiting(self._sock, LOOK_EVERY)
        self._channel = wire.Channel(self._sock.fileno(), self._look_at_clocks)
        self._looked = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        if self._pid:
            # If the nursery is gone, the next order raises NurseryLost.
            with suppress(OSError):
                self._control.sendall(wire.REQUEST.pack(wire.DROP, *self._limits))

    def exchange(self, message: bytes) -> bytes:
        """Send one message and return the answer. Raises Stop, and ValueError for what cannot be an answer."""
        self._asked = time.monotonic()
        self._cpu_limit += len(message) * SECONDS_PER_BYTE
        try:
            self._channel.send(message)
            answer = self._channel.receive()
        except (EOFError, OSError):
            raise self._why_gone() from None
        self._cpu_limit += len(answer) * SECONDS_PER_BYTE
        if len(answer) > 1 << 20:
            _prolong_own_time(len(answer) * SECONDS_PER_BYTE)
        return answer

    def _why_gone(self) -> Stop:
        """Find out how the player ended, after its socket closed."""
        pid, self._pid = self._pid, 0
        if not pid:
            raise NurseryLost
        try:
            status, used, *_ = self._order(wire.END)
        except NurseryLost:
            isolation.kill_player(pid)
            raise
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if ended_by == wire.NOT_CONFINED:
            raise NurseryLost
        # The kernel also kills a program that ignores SIGXCPU, hence the look at the time that it used.
        if ended_by == signal.SIGXCPU or (ended_by and used > self._limits.cpu):
            return Ended(Outcome.TIMEOUT, "used more processor time than it may")
        if ended_by in OUTSIDE_SIGNALS:
            return Stop(KILLED, f"killed from outside by signal {ended_by}")
        return Ended(Outcome.ERROR, "the program ended its own process before the tests ended")

    def _look_at_clocks(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY / 2:
            return
        # Count at most two ticks, so that a machine that was paused in between does not use up the program's time.
        passed = min(now - max(self._looked, self._asked), 2 * LOOK_EVERY)
        used, before = isolation.cpu_seconds(self._pid), self._cpu
        self._looked, self._cpu = now, used
        if used > min(self._cpu_limit, self._limits.cpu + isolation.EXTRA_CPU):
            raise Ended(Outcome.TIMEOUT, f"used more than {self._limits.cpu:g} s of processor time")
        state = isolation.process_state(self._pid)
        # A player that somebody stopped does not use its own time. Only the pool's patience ends that.
        if state in ("T", "t"):
            return
        self._waited += passed
        if state == "S" and used - before < 0.001:
            self._slept += passed
        if self._slept > max(MAX_SLEEP, self._limits.cpu):
            raise Ended(Outcome.TIMEOUT, f"slept for {self._slept:.1f} s")
        if self._waited > self._limits.wall:
            raise Ended(Outcome.TIMEOUT, f"not done after {self._limits.wall:g} s")

    def _order(self, operation: bytes) -> tuple[int, float, bool, list[int]]:
        self.ordering = True
        try:
            self._control.sendall(wire.REQUEST.pack(operation, *self._limits))
            reply, descriptors, _, _ = socket.recv_fds(self._control, wire.REPLY.size, 1)
            return *wire.REPLY.unpack(reply), descriptors
        except (OSError, struct.error) as error:
            raise NurseryLost from error
        finally:
            self.ordering = False


class Candidate:
    """What the tests call in place of the function.

    Whatever ends grading is kept in `stopped`, and every later call raises it again. So tests that swallow exceptions
    cannot turn it into a pass.
    """

    def __init__(self, control: socket.socket, limits: Limits) -> None:
        self.codec = values.Codec(values.MAX_ARGUMENT_DEPTH, values.MAX_ARGUMENT_BYTES, fetch=self._fetch)
        self.player = Player(control, limits)
        self.stopped: BaseException | None = None
        self.calls = 0
        self.raised: Exception | None = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call the program's function. Returns what it returns, and raises what it raises."""
        self.calls += 1
        return self.ask("call", args, kwargs)

    def stop(self, reason: BaseException) -> None:
        """End grading. Only the first reason counts."""
        self.stopped = self.stopped or reason
        raise self.stopped

    def expire(self, *_: object) -> None:
        """End grading when the timer's signal comes. During an order to the nursery, wait for the next signal."""
        if not self.player.ordering:
            broken = Stop(Outcome.BROKEN_TESTS, "the tests do not come to an end before they call the function")
            self.stop(Stop(Outcome.TIMEOUT, ENDLESS_TESTS) if self.calls else broken)

    def ask(self, request: str, *details: object) -> object:
        """Send one request and return the value in its answer. An answer repeats the token of its request."""
        if self.stopped:
            raise self.stopped
        token = os.urandom(8).hex()
        # Encode first: if an argument is an iterator of the program's own, that asks the program for its items.
        try:
            message = self.codec.dumps((token, request, *details))
        except values.CrossingError as error:
            self.stop(Stop(Outcome.BROKEN_TESTS, f"the tests pass {error}"))
        given = [*details[0], *details[1].values()] if request == "call" else []
        self.codec.given = given
        try:
            match self.codec.loads(self.player.exchange(message)):
                case (str(told), kind, value, dict(changed)) if told == token and _are_places(changed, given):
                    for place, state in changed.items():
                        _write_back(given[place], self.codec.loads(state))
                case _:
                    self.stop_forged()
        except ValueError as error:
            self.stop(Stop(Outcome.FAILED, f"the program's answer cannot be read: {error}"))
        except (Stop, NurseryLost) as reason:
            self.stop(reason)
        match kind, value:
            case "value", _:
                return value
            case "raised", Exception():
                # StopIteration would end `all(map(candidate, ...))` early, as if it had held.
                ends_loops = isinstance(value, StopIteration | StopAsyncIteration)
                self.raised = RuntimeError(*value.args) if ends_loops else value
                raise self.raised
            case "unfit", str(reason):
                self.stop(Ended(Outcome.FAILED, f"the function {reason}"))
            case "stopped", "MemoryError":
                self.stop(Ended(Outcome.OUT_OF_MEMORY, "used more memory than it may"))
            case "stopped", str(name):
                self.stop(Ended(Outcome.ERROR, f"stopped before the tests ended: {name}"))
        self.stop_forged()

    def _fetch(self, rest: object) -> tuple[list, object]:
        match self.ask("more", rest):
            case (list(items), (None | int()) as rest):
                return items, rest
        self.stop_forged()

    def stop_forged(self) -> None:
        """End grading of a program that wrote on the channel itself."""
        self.stop(Stop(Outcome.FAILED, "the program sent a message of its own in place of an answer"))


def grade(control: socket.socket, job: Job) -> Result:
    """Grade one submission. Raises NurseryLost."""
    submission, limits, each_assert = job
    seed = hashlib.sha256(submission.program.encode("utf-8", "surrogatepass")).hexdigest()
    random.seed(hashlib.sha256((submission.test + seed).encode("utf-8", "surrogatepass")).hexdigest())
    counts = tally.AssertCounts()
    candidate = Candidate(control, limits)
    player = candidate.player
    try:
        with player, _own_time_limited(limits.cpu + OWN_CPU, candidate):
            _run_tests(submission, candidate, counts, each_assert, seed)
            try:
                # A message that nobody asked for shows up here, in place of the farewell.
                candidate.ask("end")
            except Exception:
                candidate.stop_forged()
        if counts.held < counts.asserts:
            raise Ended(Outcome.FAILED, f"{counts.held:.3g} of {counts.asserts} asserts hold")
    except Ended as stop:
        counts.end()
        return Result(stop.outcome, _one_line(stop.message), counts.held, counts.asserts, player.confined)
    except Stop as stop:
        # After a forged message or endless tests, the asserts that held before count for nothing.
        return Result(stop.outcome, _one_line(stop.message), confined=player.confined)
    return Result(Outcome.PASSED, "all tests passed", counts.held, counts.asserts, player.confined)


@functools.lru_cache(maxsize=256)
def _compile_tests(prompt: str, test: str, each_assert: bool) -> tuple[types.CodeType, types.CodeType]:
    """Compile prompt and tests. A prompt that is not Python (prose for a chat model) contributes no helpers."""
    try:
        tests = compile(tally.each_assert(test) if each_assert else test, TESTS_FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Stop(Outcome.BROKEN_TESTS, f"the tests are not Python: {error}") from None
    # A prompt may end with the signature, so try it with a body as well.
    for text in (prompt, prompt + "\n    pass\n"):
        with suppress(SyntaxError, ValueError):
            return compile(text, "<prompt>", "exec", dont_inherit=True), tests
    return compile("", "<prompt>", "exec"), tests


def _run_tests(
    submission: Submission, candidate: Candidate, counts: tally.AssertCounts, each_assert: bool, seed: str
) -> None:
    """Run the prompt, load the program in the player, run the tests, and run `check` to its end.

    The entry point's own name is bound to the proxy. Raises Stop for any other ending. If each assert counts by itself,
    asserts may fail.
    """
    program, prompt, test, entry_point = submission
    prompt_code, test_code = _compile_tests(prompt, test, each_assert)
    names = {"__name__": "tests", tally.COUNTS: counts, tally.CAUGHT: (Exception, Ended)}
    check = None
    try:
        exec(prompt_code, names)
        own = {n: kind for n, kind in names.items() if isinstance(kind, type) and kind.__module__ == "tests"}
        candidate.codec.use_classes({name: kind for name, kind in own.items() if name != entry_point})
        _load_program(candidate, program, entry_point, seed)
        names[entry_point] = candidate
        exec(test_code, names)
        check = names["check"]
        check(candidate)
    except (Stop, NurseryLost):
        raise
    except BaseException as error:
        # No program has a part in what happens before the first call.
        if not candidate.calls:
            candidate.stop(Stop(Outcome.BROKEN_TESTS, f"the prompt or the tests raise {_text(error)}"))
        if each_assert:
            counts.fail((0, 0))
        if isinstance(error, MemoryError):
            candidate.stop(Ended(Outcome.OUT_OF_MEMORY, "the tests ran out of memory with the value it returned"))
        candidate.stop(Ended(Outcome.FAILED, _explain(error, candidate, test)))
    # The tests may have swallowed what ended grading.
    if candidate.stopped:
        raise candidate.stopped
    if counts.held < counts.asserts and not candidate.calls:
        candidate.stop(Stop(Outcome.BROKEN_TESTS, "the tests fail before they call the function"))


def _load_program(candidate: Candidate, program: str, entry_point: str, seed: str) -> None:
    try:
        candidate.ask("load", program, entry_point, seed, [*candidate.codec.classes])
    except Exception as error:
        candidate.stop(Ended(Outcome.ERROR, f"the program does not load: {_text(error)}"))


@contextmanager
def _own_time_limited(seconds: float, candidate: Candidate) -> Iterator[None]:
    """Limit the tests' own processor time.

    The first timer stops them between two steps. If they hang in one long call, the second timer ends the judge, and
    the pool takes that for a time-out too.
    """
    signal.signal(signal.SIGPROF, candidate.expire)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds + 0.5)
    try:
        yield
    finally:
        # Stop the deadly timer first: the other one's signal may still arrive in between.
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        # The handler would keep the candidate alive, and with it everything that it refers to.
        signal.signal(signal.SIGPROF, signal.SIG_IGN)


def _prolong_own_time(seconds: float) -> None:
    for timer in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        left, interval = signal.getitimer(timer)
        if left:
            signal.setitimer(timer, left + seconds, interval)


def _write_back(mine: object, now: object) -> object:
    """Copy the changes that the function made to its arguments into the tests' own objects, in place if possible."""
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
        case deque(), deque():
            mine.clear()
            mine.extend(now)
        case tuple(), tuple():
            return (*map(_write_back, mine, now), *now[len(mine) :])
        case _ if type(mine) is type(now) and type(now).__name__ in ("bytearray", "array", "ndarray"):
            mine[:] = now
        case _ if type(mine).__module__ == "tests" and type(mine) is type(now):
            values.set_attributes(mine, values.attributes(now))
        case _:
            return now
    return mine


def _are_places(changed: dict, given: list) -> bool:
    return all(type(n) is int and 0 <= n < len(given) and type(state) is bytes for n, state in changed.items())


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
    # An integer may be too long to print, and the prompt's own exceptions have methods of their own.
    except Exception:
        return type(error).__name__


def _one_line(text: str) -> str:
    """Make text from a program safe to print: no line breaks, terminal codes, or halves of characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text[:500].split())[:200])


def main() -> None:
    """Grade what the pool sends, until the pool or the nursery is gone."""
    isolation.expect_faults()
    values.load_library()
    for module in sys.argv[1:]:
        # What programs may import, tests may need in order to compare.
        with suppress(ImportError):
            importlib.import_module(module)
    # Not every system has these two.
    with suppress(AttributeError, OSError):
        isolation.hide_memory()
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (OWN_MEMORY, OWN_MEMORY))
    parent, control = wire.Channel(os.dup(0)), socket.socket(fileno=os.dup(1))
    # From here on, what the tests print goes to /dev/null.
    os.dup2(2, 0)
    os.dup2(2, 1)
    # If the nursery is gone, exit: the pool sees that and starts both again.
    with suppress(EOFError, OSError, NurseryLost):
        while True:
            submission, limits, each_assert = values.loads(parent.receive())
            result = grade(control, Job(Submission(*submission), Limits(*limits), each_assert))
            parent.send(values.dumps(result))
            # What the tests made of one program's values must not count against the next one's memory. Freeze what is
            # left, modules that tests import, so that the collector does not go through it each time.
            gc.collect()
            gc.freeze()


if __name__ == "__main__":
    main()
