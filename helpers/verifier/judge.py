"""The judge: holds a problem's prompt and tests, and decides. It never runs a line of the program under test.

Started as a script in a new interpreter: `python judge.py PARENT_FD NURSERY_FD`. For each submission it has the nursery
start a player, and runs `check(candidate)` here, where `candidate` is a proxy: it sends the arguments to the player as
plain data and rebuilds plain data from the answer. What is compared is therefore always a value made here, and only
`check` coming to its end here is a pass.
"""

import builtins
import functools
import hashlib
import os
import random
import resource
import select
import signal
import socket
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # the interpreter runs with -P
import isolation  # noqa: E402
import nursery  # noqa: E402
import wire  # noqa: E402
from verdict import BROKEN_TESTS, Outcome  # noqa: E402

del sys.path[0]

OWN_MEMORY = 2 << 30  # bytes, against what tests make of a returned value
OWN_CPU = 1.0  # seconds that the tests themselves may use, beyond what the program may
LONGEST_WAIT = 0.1  # seconds between two looks at the player's clock
TESTS_FILE = "<tests>"
# Built-in exceptions that a program may raise into the tests, by name. StopIteration is not among them: raised within
# `all(map(candidate, ...))` it would end the comparison early, as if it had held. The last two take more than a text.
NOT_RAISABLE = (StopIteration, StopAsyncIteration, ExceptionGroup, UnicodeError)
RAISABLE = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, NOT_RAISABLE)
}


class Stop(BaseException):
    """Grading is over with this outcome. Not an Exception: tests that catch exceptions must not catch it."""

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = _one_line(message)


class PlayerGone(Stop):
    """The player's end of the socket closed before the tests ended."""

    def __init__(self) -> None:
        super().__init__(Outcome.ERROR, "the program ended its own process before the tests ended")


class NurseryLost(Exception):
    """The nursery is gone, and with it the means to grade."""


class Candidate:
    """What the tests call in place of the function: it sends plain data out and rebuilds plain data from the answer.

    Whatever ends grading is kept in `stopped` and raised again by every later call, so that tests which swallow
    exceptions cannot turn it into a pass.
    """

    def __init__(self, sock: socket.socket, pid: int, limits: isolation.Limits) -> None:
        self.stopped: Stop | None = None
        self.called = False
        self.raised: Exception | None = None
        sock.setblocking(False)
        self._sock = sock
        self._channel = wire.Channel(sock, self._wait)
        self._pid = pid
        self._limits = limits
        self._deadline = time.monotonic() + limits.wall

    def __call__(self, *args: object, **kwargs: object) -> object:
        if self.stopped:
            raise self.stopped
        self.called = True
        return self._ask("call", args, kwargs)

    def load(self, program: str, entry_point: str, seed: str) -> None:
        """Have the player run the program. Raises Stop with the reason where that fails."""
        try:
            self._ask("load", program, entry_point, seed)
        except Exception as error:
            raise Stop(Outcome.ERROR, f"the program does not load: {type(error).__name__}: {error}") from None

    def finish(self) -> None:
        """Make sure that nothing but answers came: a further message shows here in place of the farewell."""
        self._ask("end")

    def stop(self, outcome: str, message: str) -> None:
        """End grading; only the first reason counts."""
        self.stopped = self.stopped or Stop(outcome, message)
        raise self.stopped

    def _ask(self, request: str, *details: object) -> object:
        """Send one request and return the value in its answer; an answer repeats the token of its request."""
        token = os.urandom(8).hex()
        try:
            self._channel.send((token, request, *details))
            answer = self._channel.receive()
        except wire.NotPlainError as error:
            self.stop(BROKEN_TESTS, f"the tests pass {error}")
        except wire.WireError as error:
            self.stop(Outcome.FAILED, f"what should cross cannot: {error}")
        except (EOFError, OSError):
            self.stopped = self.stopped or PlayerGone()
            raise self.stopped from None
        match answer:
            case (str(told), "value", value) if told == token:
                return value
            case (str(told), "raised", (str(name), str(text))) if told == token:
                self.raised = RAISABLE.get(name, RuntimeError)(_one_line(text))
                raise self.raised
            case (str(told), "unfit", str(reason)) if told == token:
                self.stop(Outcome.FAILED, f"the function {reason}")
            case (str(told), "stopped", "MemoryError") if told == token:
                self.stop(Outcome.OUT_OF_MEMORY, "used more memory than it may")
            case (str(told), "stopped", str(name)) if told == token:
                self.stop(Outcome.ERROR, f"stopped before the tests ended: {name}")
        self.stop(Outcome.FAILED, "the program sent a message of its own in place of an answer")

    def _wait(self, for_writing: bool) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT if for_writing else select.POLLIN)
        while True:
            cpu_left = self._limits.cpu - isolation.cpu_seconds(self._pid)
            wall_left = self._deadline - time.monotonic()
            if cpu_left <= 0:
                self.stop(Outcome.TIMEOUT, f"used more than {self._limits.cpu:g} s of processor time")
            if wall_left <= 0:
                self.stop(Outcome.TIMEOUT, f"not done after {self._limits.wall:g} s")
            if poll.poll(1000 * min(LONGEST_WAIT, cpu_left + 0.001, wall_left)):
                return


class Nursery:
    """The judge's side of the nursery."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    @contextmanager
    def candidate(self, limits: isolation.Limits) -> Iterator[Candidate]:
        """Have a fresh player started, and ended in any case. Raises NurseryLost."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                pid = self._ask(nursery.START, limits, [theirs.fileno()])
            status = 0
            try:
                yield Candidate(ours, pid, limits)
            except PlayerGone:
                status = self._end(pid, limits)
                pid = 0
                if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
                    raise Stop(Outcome.TIMEOUT, "used more processor time than it may") from None
                raise
            finally:
                if pid:
                    self._end(pid, limits)

    def _end(self, pid: int, limits: isolation.Limits) -> int:
        try:
            return self._ask(nursery.END, limits, [])
        except NurseryLost:
            isolation.kill_player(pid)
            raise

    def _ask(self, operation: bytes, limits: isolation.Limits, descriptors: list[int]) -> int:
        try:
            socket.send_fds(self._control, [nursery.REQUEST.pack(operation, *limits)], descriptors)
            return nursery.REPLY.unpack(self._control.recv(nursery.REPLY.size, socket.MSG_WAITALL))[0]
        except (OSError, nursery.struct.error) as error:
            raise NurseryLost from error


@functools.lru_cache(maxsize=256)
def _compile_tests(prompt: str, test: str) -> tuple[types.CodeType, types.CodeType]:
    """Compile what the problem brings. A prompt that is no Python (words to a chat model) brings no helpers."""
    try:
        tests = compile(test, TESTS_FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise Stop(BROKEN_TESTS, f"the tests are not Python: {error}") from None
    for text in (prompt, prompt + "\n    pass\n"):  # a prompt may end with its signature
        try:
            return compile(text, "<prompt>", "exec", dont_inherit=True), tests
        except (SyntaxError, ValueError):
            continue
    return compile("", "<prompt>", "exec"), tests


def _run_tests(prompt: str, test: str, entry_point: str, candidate: Candidate) -> None:
    """Execute prompt and tests, with the entry point's own name bound to the proxy, and run `check` to its end.

    Raises Stop for anything else.
    """
    prompt_code, test_code = _compile_tests(prompt, test)
    names: dict[str, object] = {"__name__": "tests"}
    check = None
    try:
        exec(prompt_code, names)
        names[entry_point] = candidate
        exec(test_code, names)
        check = names["check"]
        check(candidate)
    except Stop:
        raise
    except BaseException as error:
        if check is None and not candidate.called:
            candidate.stop(BROKEN_TESTS, f"the prompt or the tests raise {type(error).__name__}: {error}")
        if isinstance(error, MemoryError):
            candidate.stop(Outcome.OUT_OF_MEMORY, "the tests ran out of memory over what it returned")
        candidate.stop(Outcome.FAILED, _explain(error, candidate, test))
    if candidate.stopped:  # and swallowed by the tests
        raise candidate.stopped


def _explain(error: BaseException, candidate: Candidate, test: str) -> str:
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if error is candidate.raised:
        return f"the function raised {text}"
    line, trace = "", error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == TESTS_FILE:
            line = test.split("\n")[trace.tb_lineno - 1]
        trace = trace.tb_next
    return f"{text} in the tests: {line}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


@contextmanager
def _own_time_limited(seconds: float, candidate: Candidate) -> Iterator[None]:
    """Bound the tests' own processor time; where they hang in one long call, the second timer ends the judge."""
    message = "the tests did not come to an end with what it returned"
    signal.signal(signal.SIGPROF, lambda *_: candidate.stop(Outcome.TIMEOUT, message))
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds + 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def grade(nest: Nursery, submission: tuple[str, str, str, str], limits: isolation.Limits) -> tuple[str, str]:
    """Grade one submission; return (outcome, message). Raises NurseryLost."""
    program, prompt, test, entry_point = submission
    seed = hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()
    random.seed(hashlib.sha256((test + seed).encode("utf-8", "surrogatepass")).hexdigest())
    try:
        with nest.candidate(limits) as candidate:
            candidate.load(program, entry_point, seed)
            with _own_time_limited(limits.cpu + OWN_CPU, candidate):
                _run_tests(prompt, test, entry_point, candidate)
            candidate.finish()
    except Stop as stop:
        return str(stop.outcome), stop.message
    return str(Outcome.PASSED), "all tests passed"


def main() -> None:
    parent_fd, nursery_fd = map(int, sys.argv[1:])
    with suppress(OSError, ValueError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (OWN_MEMORY, OWN_MEMORY))
    parent = wire.Channel(socket.socket(fileno=parent_fd))
    nest = Nursery(socket.socket(fileno=nursery_fd))
    while True:
        try:
            submission, limits = parent.receive()
            parent.send(grade(nest, submission, isolation.Limits(*limits)))
        except (EOFError, OSError, NurseryLost):  # the parent sees the judge go, and starts both anew
            return


if __name__ == "__main__":
    main()
