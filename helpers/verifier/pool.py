"""A pool of graders: each worker is one judge and one nursery, started once as new interpreters and used again.

The calling process may have torch, CUDA and threads loaded: it is never forked, runs no thread for grading, and waits
for all workers in one loop.
"""

import atexit
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import wire
from .verdict import (
    BROKEN_TESTS,
    ENDLESS_TESTS,
    BrokenTestsError,
    GradingError,
    LayerState,
    Limits,
    Outcome,
    Result,
    Submission,
    Verdict,
)

PYTHON_FLAGS = ("-s", "-P")  # not -I: it would ignore PYTHONHASHSEED, and set order, hence verdicts, would vary
# The whole environment of judge, nursery and player: no secrets, and hashes that never vary. BIND_NOW: what the nursery
# has resolved, no player has to.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "LD_BIND_NOW": "1"}
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # some interpreters do not start without

CPU_SECONDS = 2.0
MEMORY_BYTES = 512 << 20
MAX_PROGRAM = 1 << 17  # characters, of up to 12 bytes each on the way
MAX_TESTS = wire.MAX_BYTES - 13 * MAX_PROGRAM  # bytes of prompt and tests on the way
MAX_SECONDS = 100_000
JUDGE_SECONDS = 60.0  # on top of a program's own wall-clock limit; only a judge that hangs gets there
EXIT_SECONDS = 2.0
Job = tuple[tuple[str, ...], Limits, bool]  # a submission's four texts; whether each assert counts by itself
# Known to be right: where this cannot be graded either, the fault is not the program's.
CONTROL = Submission(
    "def f(x):\n    return 2 * x\n", "", "def check(candidate):\n    assert candidate(21) == 42\n", "f"
)


class Setup(NamedTuple):
    """What workers are started with: mode, modules to have beside Python's own, and layers left out (by tests)."""

    mode: str = "fork"
    modules: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()


class Worker:
    """One judge and one nursery, started with the first job."""

    def __init__(self, setup: Setup, core: int | None = None) -> None:
        self.sock: socket.socket | None = None
        self._setup, self._core = setup, core
        self._processes: list[subprocess.Popen] = []

    def submit(self, job: Job) -> bool:
        """Give the judge a job; False where it does not take it."""
        self._deadline = time.monotonic() + job[1].wall + JUDGE_SECONDS
        try:
            if self.sock is None:
                self._start()
            self._channel.send(job)
        except OSError:
            self.stop()
        return self.sock is not None

    def collect(self) -> Result | None:
        """Read the judge's result; None where grading broke. Both processes are then to be started anew."""
        try:
            return self._channel.receive()
        except (OSError, EOFError, wire.WireError):
            judge = self._processes[0]
            self.stop()
            return (Outcome.TIMEOUT, ENDLESS_TESTS, 0, 0) if judge.returncode == -signal.SIGVTALRM else None

    def is_late(self) -> bool:
        """Whether the judge should have answered by now."""
        return time.monotonic() > self._deadline

    def stop(self) -> None:
        """End both processes. The judge first: the nursery then ends its player and leaves by itself."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        for process in self._processes[:1]:
            process.kill()
        for process in self._processes:
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    def _start(self) -> None:
        self.stop()  # an interrupt may have kept it from coming to its end
        self.sock, judge_end = socket.socketpair()
        control, nursery_end = socket.socketpair()
        wire.wake_every(self.sock, 1.0)
        self._channel = wire.Channel(self.sock.fileno(), self._give_up)
        with judge_end, control, nursery_end:
            self._run(judge_end, control, "judge.py")
            self._run(nursery_end, subprocess.DEVNULL, "nursery.py", "serve", json.dumps(self._setup))

    def _give_up(self) -> None:
        if self.is_late():
            raise TimeoutError

    def _run(self, stdin: socket.socket, stdout: socket.socket | int, *command: str) -> None:
        process = subprocess.Popen(
            _command(*command),
            env=_environment(),
            cwd="/",
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is for the caller
        )
        self._processes.append(process)
        if self._core is not None:
            with suppress(OSError):  # it may have been taken away from this process since
                os.sched_setaffinity(process.pid, {self._core})


class Pool:
    """All workers of this process, and the rule for what happens when grading itself breaks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._setup = Setup()
        self._workers: list[Worker] = []
        self._failures = 0  # of the control, since grading last worked

    def grade(self, jobs: Sequence[Job], workers: int, setup: Setup) -> list[Result]:
        """Do the jobs, first all of them side by side, then, alone, those whose grading broke."""
        with self._lock:
            if setup != self._setup:
                self.close()
                self._setup = setup
            cores = _cores()
            while (place := len(self._workers)) < min(workers, len(jobs)):
                # Judge, nursery and player take turns: where all cores are busy, a quarter faster on one than on any.
                pinned = workers >= len(cores) and hasattr(os, "sched_setaffinity")
                self._workers.append(Worker(setup, cores[place % len(cores)] if pinned else None))
            try:
                results = dict(_grade_together(jobs, self._workers[:workers]))
                for index, job in enumerate(jobs):
                    results[index] = results[index] or self._grade_alone(job)
            except BaseException:  # Ctrl-C, say: workers may be in the middle of a program
                self.close()
                raise
            if all(outcome != Outcome.INFRASTRUCTURE_FAILED for outcome, *_ in results.values()):
                self._failures = 0
            return [results[index] for index in range(len(jobs))]

    def close(self) -> None:
        """End all workers and leave no process."""
        with self._lock:
            while self._workers:
                self._workers[-1].stop()
                self._workers.pop()

    def _grade_alone(self, job: Job) -> Result:
        """Grade again what broke its grader, with fresh processes; tell a breaking program from a broken machine."""
        if result := self._grade_fresh(job):
            return result
        control = self._grade_fresh(_job(CONTROL, job[1]))
        if control and control[0] == Outcome.PASSED:
            return Outcome.ERROR, "broke the processes that graded it, twice, the second time alone", 0, 0
        self._failures += 1
        if self._failures > 1:
            raise GradingError(
                f"Grading does not work here: no known good program can be graded with {_command('judge.py')[0]}; "
                "helpers.verifier.isolation_report() may say why."
            )
        return Outcome.INFRASTRUCTURE_FAILED, "a known good program cannot be graded here either", 0, 0

    def _grade_fresh(self, job: Job) -> Result | None:
        worker = Worker(self._setup)
        try:
            [(_, result)] = _grade_together([job], [worker])
            return result
        finally:
            worker.stop()


_pool = Pool()
atexit.register(_pool.close)
if hasattr(os, "register_at_fork"):  # the workers, and perhaps a held lock, are the parent's
    os.register_at_fork(after_in_child=_pool.__init__)


def grade_programs(
    items: Sequence[Submission],
    *,
    workers: int | None = None,
    timeout: float = CPU_SECONDS,
    memory: int = MEMORY_BYTES,
    mode: str | None = None,
    modules: Sequence[str] = (),
    each_assert: bool = False,
) -> list[Verdict]:
    """Grade untrusted programs against their tests; one verdict each, in the order of `items`.

    workers: programs graded at a time (default: the processor cores this process may use). timeout: seconds of
    processor time per program; one that sleeps is ended after 5 + 5 * timeout seconds. memory: bytes per program.
    mode: "fork", or "spawn" for a new interpreter per program (slower; the default where there is no fork).
    modules: what programs may import beside Python's own library, such as "numpy". each_assert: go on behind an assert
    that fails, and count those that hold (Verdict.share). Equal items are graded once. Raises BrokenTestsError where a
    problem's own tests do not run, and GradingError where grading does not work on this machine.
    """
    setup, limits = Setup(_checked_mode(mode), tuple(modules)), limits_for(timeout, memory)
    if not (0 < timeout <= MAX_SECONDS and 0 < memory < sys.maxsize) or (workers is not None and workers < 1):
        raise ValueError(f"workers, timeout and memory must be positive, not {workers}, {timeout} and {memory}.")
    too_long = Verdict(Outcome.ERROR, f"the program is longer than {MAX_PROGRAM} characters")
    verdicts = {item: too_long for item in items if len(item.program) > MAX_PROGRAM}
    distinct = [item for item in dict.fromkeys(items) if item not in verdicts]
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"modules: there is no module named '{name}' here.")
    for prompt, test, entry_point in dict.fromkeys((item.prompt, item.test, item.entry_point) for item in distinct):
        if 12 * (len(prompt) + len(test)) > MAX_TESTS and len(wire._encode((prompt, test))) > MAX_TESTS:
            raise BrokenTestsError(f"The problem '{entry_point}' cannot be graded: its tests are longer than 2 MiB.")
    results = _pool.grade([_job(item, limits, each_assert) for item in distinct], workers or len(_cores()), setup)
    for item, (outcome, message, *counts) in zip(distinct, results, strict=True):
        if outcome == BROKEN_TESTS:
            raise BrokenTestsError(f"The problem '{item.entry_point}' cannot be graded: {message}.")
        verdicts[item] = Verdict(Outcome(outcome), message, *counts)
    return [verdicts[item] for item in items]


def close_pool() -> None:
    """End the grading processes; the next call starts new ones. Runs by itself when the interpreter exits."""
    _pool.close()


class Report(dict[str, LayerState]):
    """name -> (on, detail); shows as a table."""

    def __repr__(self) -> str:
        return "\n".join(f"{name:<20}{'on' if on else 'OFF':<5}{detail}" for name, (on, detail) in self.items())


def isolation_report() -> Report:
    """Say for each layer of isolation whether it is on here, and what it does, or what is left without it and why.

    The layers are tried in a process like the one that runs a program. Raises GradingError where that fails.
    """
    command = _command("nursery.py", "report", json.dumps(Setup(_checked_mode(None))))
    tried = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    if tried.returncode:
        raise GradingError(f"Grading does not work here: {tried.stderr.strip().splitlines()[-1]}")
    return Report({name: LayerState(*state) for name, state in json.loads(tried.stdout).items()})


def limits_for(timeout: float = CPU_SECONDS, memory: int = MEMORY_BYTES) -> Limits:
    """Limits with a wall-clock backstop so generous that a busy machine changes no verdict."""
    return Limits(cpu=timeout, memory=int(memory), wall=5.0 + 5.0 * timeout)


def _job(item: Submission, limits: Limits, each_assert: bool = False) -> Job:
    return (item.program, item.prompt, item.test, item.entry_point), limits, each_assert


def _grade_together(jobs: Sequence[Job], workers: Sequence[Worker]) -> Iterator[tuple[int, Result | None]]:
    """Do the jobs side by side; give (place, result) as they end, None for one whose grading broke."""
    waiting, idle, busy = deque(enumerate(jobs)), list(workers), {}
    while waiting or busy:
        while waiting and idle:
            worker, (place, job) = idle.pop(), waiting.popleft()
            if worker.submit(job):
                busy[worker] = place
            else:
                idle.append(worker)
                yield place, None
        poll = select.poll()
        for worker in busy:
            poll.register(worker.sock, select.POLLIN)
        ready = dict(poll.poll(1000)) if busy else {}
        for worker in [worker for worker in busy if worker.sock.fileno() in ready or worker.is_late()]:
            yield busy.pop(worker), worker.collect()
            idle.append(worker)


def _checked_mode(mode: str | None) -> str:
    if not hasattr(socket, "send_fds") or not sys.executable:
        raise GradingError("Grading needs Linux or macOS; on Windows use WSL, the Windows Subsystem for Linux.")
    if mode not in (None, "fork", "spawn"):
        raise ValueError(f"mode must be 'fork' or 'spawn', not {mode!r}.")
    return mode or ("fork" if hasattr(os, "fork") else "spawn")


def _cores() -> list[int]:
    """The cores that this process may use: its share, where several ranks train on one machine."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    share = max(1, len(cores) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    first = share * int(os.environ.get("LOCAL_RANK", 0)) % len(cores)
    return cores[first : first + share]


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | ENVIRONMENT


def _command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, *PYTHON_FLAGS, str(Path(__file__).with_name(script)), *arguments]
