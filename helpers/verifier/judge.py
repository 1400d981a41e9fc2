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
import select
import signal
import socket
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # the interpreter runs with -P
import isolation  # noqa: E402
import nursery  # noqa: E402
import wire  # noqa: E402
from verdict import Outcome  # noqa: E402

del sys.path[0]

MEMORY = 2 << 30  # bytes of address space for the judge itself, against what tests make of a returned value
CHECK_MARGIN = 2.0  # seconds of processor time the tests themselves may use beyond the program's
LONGEST_WAIT = 0.1  # seconds between two looks at the player's clock
TESTS_FILE = "<tests>"
BROKEN_TESTS = "broken tests"  # told apart from every Outcome: the fault of the problem, not of the program


class Stop(BaseException):
    """Grading is over with this outcome. Not an Exception: tests that catch exceptions must not catch it."""

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message


class PlayerEnded(Stop):
    """The player's end of the socket closed before the tests ended."""

    def __init__(self) -> None:
        super().__init__(Outcome.ERROR, "the program ended its own process before the tests ended")


class NurseryLostError(Exception):
    """The nursery is gone, and with it the means to grade."""


def _raisable() -> dict[str, type[Exception]]:
    """Built-in exceptions that a program may raise into the tests, by name.

    Those that end an iteration are left out: raised within `all(map(candidate, ...))` they would end it early, as if
    everything had been compared.
    """
    left_out = (StopIteration, StopAsyncIteration)
    kinds = [kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    plain = [kind for kind in kinds if kind.__init__ is not object.__init__ and not issubclass(kind, UnicodeError)]
    return {kind.__name__: kind for kind in plain if not issubclass(kind, (*left_out, ExceptionGroup))}


RAISABLE = _raisable()


class Player:
    """The judge's side of one player: requests, answers, and the clocks that end it."""

    def __init__(self, sock: socket.socket, pid: int, cpu: float, wall: float) -> None:
        sock.setblocking(False)
        self._channel = wire.Channel(sock, self._wait)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._sock = sock
        self._pid = pid
        self._cpu = cpu
        self._deadline = time.monotonic() + wall

    def ask(self, request: str, *details: object) -> tuple[str, object]:
        """Send one request and return (kind, payload) of its answer; raises Stop where there is none."""
        token = os.urandom(8).hex()
        try:
            self._channel.send((token, request, *details))
            answer = self._channel.receive()
        except wire.NotPlainError as error:
            raise Stop(BROKEN_TESTS, f"the tests pass {error}") from None
        except wire.WireError as error:
            raise Stop(Outcome.FAILED, f"what came back cannot be used: {error}") from None
        except (EOFError, OSError):
            raise PlayerEnded from None
        match answer:
            case (str(told), str(kind), payload) if told == token:
                return kind, payload
        raise Stop(Outcome.FAILED, "the program sent a message of its own in place of an answer")

    def _wait(self, for_writing: bool) -> None:
        if for_writing:
            self._poll.modify(self._sock, select.POLLOUT)
        try:
            while True:
                cpu_left = self._cpu - isolation.cpu_seconds(self._pid)
                wall_left = self._deadline - time.monotonic()
                if cpu_left <= 0:
                    raise Stop(Outcome.TIMEOUT, f"used more than {self._cpu:g} s of processor time")
                if wall_left <= 0:
                    raise Stop(Outcome.TIMEOUT, "waited too long without using the processor")
                if self._poll.poll(1000 * min(LONGEST_WAIT, cpu_left + 0.001, wall_left)):
                    return
        finally:
            if for_writing:
                self._poll.modify(self._sock, select.POLLIN)


class Candidate:
    """What the tests call in place of the function: it sends plain data out and rebuilds plain data from the answer.

    The first thing that ends grading is kept in `stopped`, and every later call raises it again, so that tests which
    swallow exceptions cannot turn it into a pass.
    """

    def __init__(self, player: Player) -> None:
        self.stopped: Stop | None = None
        self.called = False
        self.calling = False
        self.raised: Exception | None = None
        self._player = player

    def __call__(self, *args: object, **kwargs: object) -> object:
        if self.stopped:
            raise self.stopped
        self.called = self.calling = True
        try:
            return self._answer(*self._player.ask("call", args, kwargs))
        except Stop as stop:
            self.stopped = self.stopped or stop
        finally:
            self.calling = False
        raise self.stopped

    def load(self, program: str, entry_point: str, seed: str) -> None:
        """Have the player run the program. Raises Stop with the reason where that fails."""
        kind, payload = self._player.ask("load", program, entry_point, seed)
        if kind == "value":
            return
        if kind == "raised":
            name, text = _two_texts(payload)
            raise Stop(Outcome.ERROR, f"the program does not load: {name}: {text}")
        self._answer(kind, payload)

    def finish(self) -> None:
        """Make sure that nothing but answers came: a further message shows here in place of the farewell."""
        if self._player.ask("end") != ("value", None):
            raise Stop(Outcome.FAILED, "the program sent a message of its own")

    def out_of_time(self) -> None:
        """End grading because the tests themselves take too long over what the program returned."""
        self.stopped = self.stopped or Stop(Outcome.TIMEOUT, "the tests did not come to an end with what it returned")
        if not self.calling:  # within a call the exchange with the player is completed first
            raise self.stopped

    def _answer(self, kind: str, payload: object) -> object:
        if self.stopped:
            raise self.stopped
        if kind == "value":
            return payload
        if kind == "unfit":
            raise Stop(Outcome.FAILED, f"the function {payload}")
        name, text = _two_texts(payload)
        if kind == "stopped" and name == "MemoryError":
            raise Stop(Outcome.OUT_OF_MEMORY, "used more memory than it may")
        if kind == "stopped":
            raise Stop(Outcome.ERROR, f"stopped before the tests ended: {name}")
        self.raised = RAISABLE.get(name, RuntimeError)(text)
        raise self.raised


def _two_texts(payload: object) -> tuple[str, str]:
    match payload:
        case (str(name), str(text)):
            return name[:80], _one_line(text)
    raise Stop(Outcome.FAILED, "the program sent a message of its own in place of an answer")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


class Nursery:
    """The judge's side of the nursery."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    @contextmanager
    def player(self, cpu: float, memory: int, wall: float) -> Iterator[Player]:
        """Have a fresh player started, and ended afterwards. A Stop that leaves is refined by how the player ended."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                pid = self._ask(nursery.START, cpu, memory, [theirs.fileno()])
            try:
                yield Player(ours, pid, cpu, wall)
            except Stop as stop:
                raise _refine(stop, self._end(pid)) from None
            except BaseException:
                self._end(pid)
                raise
            else:
                self._end(pid)

    def _end(self, pid: int) -> int:
        try:
            return self._ask(nursery.END, 0.0, 0, [])
        except NurseryLostError:
            isolation.kill_player(pid)
            raise

    def _ask(self, operation: bytes, cpu: float, memory: int, descriptors: list[int]) -> int:
        try:
            socket.send_fds(self._control, [nursery.REQUEST.pack(operation, cpu, memory)], descriptors)
            reply = self._control.recv(nursery.REPLY.size, socket.MSG_WAITALL)
        except OSError as error:
            raise NurseryLostError from error
        if len(reply) != nursery.REPLY.size:
            raise NurseryLostError
        return nursery.REPLY.unpack(reply)[0]


def _refine(stop: Stop, status: int) -> Stop:
    """Where a signal ended the player's process, say which. SIGKILL says nothing: the nursery sends it in any case."""
    if not isinstance(stop, PlayerEnded) or not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL:
        return stop
    if os.WTERMSIG(status) == signal.SIGXCPU:
        return Stop(Outcome.TIMEOUT, "used more processor time than it may")
    return Stop(Outcome.ERROR, f"signal {os.WTERMSIG(status)} ended its process before the tests ended")


@functools.lru_cache(maxsize=256)
def _compile_tests(prompt: str, test: str) -> tuple[types.CodeType | None, types.CodeType]:
    """Compile what the problem brings. A prompt that is no Python (words to a chat model) brings no helpers."""
    try:
        tests = compile(test, TESTS_FILE, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError) as error:
        raise Stop(BROKEN_TESTS, f"the tests are not Python: {error}") from None
    for text in (prompt, prompt + "\n    pass\n"):  # a prompt may end with its signature
        try:
            return compile(text, "<prompt>", "exec", dont_inherit=True, optimize=0), tests
        except (SyntaxError, ValueError):
            continue
    return None, tests


def _load_tests(prompt: str, test: str, entry_point: str, candidate: Candidate) -> Callable:
    """Execute prompt and tests, with the entry point's own name bound to the proxy, and return `check`."""
    prompt_code, test_code = _compile_tests(prompt, test)
    names: dict[str, object] = {"__name__": "tests"}
    if prompt_code:
        exec(prompt_code, names)
    names[entry_point] = candidate
    exec(test_code, names)
    return names["check"]


def _explain(error: BaseException, candidate: Candidate, test: str) -> str:
    text = f"{type(error).__name__}: {_one_line(str(error))}".rstrip(": ")
    if error is candidate.raised:
        return f"the function raised {text}"
    line = ""
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == TESTS_FILE:
            line = test.split("\n")[trace.tb_lineno - 1].strip()[:160]
        trace = trace.tb_next
    return f"{text} in the tests: {line}"


def _run_tests(submission: tuple[str, str, str], candidate: Candidate) -> None:
    """Run `check(candidate)` to its end. Raises Stop for anything else."""
    prompt, test, entry_point = submission
    check = None
    try:
        check = _load_tests(prompt, test, entry_point, candidate)
        check(candidate)
    except Stop:
        raise
    except MemoryError:
        raise Stop(Outcome.OUT_OF_MEMORY, "the tests ran out of memory over what it returned") from None
    except BaseException as error:
        if candidate.stopped:
            raise candidate.stopped from None
        if check is None and not candidate.called:
            raise Stop(BROKEN_TESTS, f"the prompt or the tests raise {type(error).__name__}: {error}") from None
        raise Stop(Outcome.FAILED, _explain(error, candidate, test)) from None
    if candidate.stopped:
        raise candidate.stopped


@contextmanager
def _limited_check(seconds: float, candidate: Candidate) -> Iterator[None]:
    """Bound the tests' own processor time; where they hang in one long call, the second timer ends the judge."""
    signal.signal(signal.SIGPROF, lambda *_: candidate.out_of_time())
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds + CHECK_MARGIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def grade(nest: Nursery, job: tuple) -> tuple[str, str]:
    """Grade one submission; return (outcome, message). Raises NurseryLostError."""
    program, prompt, test, entry_point, cpu, memory, wall = job
    program_seed = hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()
    random.seed(hashlib.sha256((test + program_seed).encode("utf-8", "surrogatepass")).hexdigest())
    try:
        _compile_tests(prompt, test)
        with nest.player(cpu, memory, wall) as player:
            candidate = Candidate(player)
            candidate.load(program, entry_point, program_seed)
            with _limited_check(cpu + CHECK_MARGIN, candidate):
                _run_tests((prompt, test, entry_point), candidate)
            candidate.finish()
    except Stop as stop:
        return str(stop.outcome), stop.message
    return str(Outcome.PASSED), "all tests passed"


def main() -> None:
    parent_fd, nursery_fd = map(int, sys.argv[1:])
    isolation.limit_memory(MEMORY)
    parent = wire.Channel(socket.socket(fileno=parent_fd))
    nest = Nursery(socket.socket(fileno=nursery_fd))
    while True:
        try:
            parent.send(grade(nest, parent.receive()))
        except (EOFError, OSError, NurseryLostError):  # the parent sees the judge go, and starts both anew
            return


if __name__ == "__main__":
    main()
