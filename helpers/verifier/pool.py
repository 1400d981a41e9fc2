"""A pool of graders: each worker is one judge and one nursery, started once as new interpreters and used again.

The calling process may have torch, CUDA and threads loaded: it is never forked, runs no thread for grading, and waits
for all workers in one loop.
"""

import atexit
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from . import isolation, wire
from .isolation import Limits
from .verdict import BROKEN_TESTS, BrokenTestsError, GradingError, Outcome, Submission, Verdict

HERE = Path(__file__).resolve().parent
CPU_SECONDS = 2.0
MEMORY_BYTES = 512 << 20
MAX_PROGRAM = 1 << 19  # characters
JUDGE_SECONDS = 60.0  # on top of a program's own wall-clock limit; only a judge that hangs gets there
EXIT_SECONDS = 2.0
MODES = ("fork", "spawn")
Result = tuple[str, str]  # outcome and message

# Known to be right: where this cannot be graded either, the fault is not the program's.
CONTROL = Submission(
    program="def double(x):\n    return 2 * x\n",
    prompt="def double(x):\n",
    test="def check(candidate):\n    assert candidate(21) == 42\n",
    entry_point="double",
)


def limits_for(timeout: float = CPU_SECONDS, memory: int = MEMORY_BYTES) -> Limits:
    """Limits with a wall-clock backstop so generous that a busy machine changes no verdict."""
    return Limits(cpu=timeout, memory=memory, wall=5.0 + 5.0 * timeout)


class Worker:
    """One judge and one nursery, started with the first program."""

    def __init__(self, mode: str) -> None:
        self.sock: socket.socket | None = None
        self.deadline = 0.0
        self._mode = mode
        self._processes: list[subprocess.Popen] = []

    def submit(self, item: Submission, limits: Limits) -> bool:
        """Give the judge one program; False where it does not take it."""
        job = ((item.program, item.prompt, item.test, item.entry_point), limits)
        self.deadline = time.monotonic() + limits.wall + JUDGE_SECONDS
        try:
            if self.sock is None:
                self._start()
            wire.Channel(self.sock).send(job)
        except OSError:
            self.stop()
            return False
        return True

    def collect(self) -> Result | None:
        """Read the judge's result; None where grading broke, and both processes are to be started anew."""
        try:
            outcome, message = wire.Channel(self.sock).receive()
            return outcome, message
        except (OSError, EOFError, wire.WireError):
            return self.stop()

    def stop(self) -> None:
        """End both processes. The judge first: the nursery then ends its player and leaves by itself."""
        self._disconnect()
        for process in self._processes[:1]:
            process.kill()
        for process in self._processes:
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    def forget(self) -> None:
        """Let go of processes that are another process's children."""
        self._disconnect()
        for process in self._processes:
            process.returncode = 0  # not ours to wait for
        self._processes = []

    def _disconnect(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def _start(self) -> None:
        self.sock, judge_end = socket.socketpair()
        self.sock.settimeout(10.0)  # only a judge that was stopped or hangs takes longer to read or to finish a message
        judge_control, nursery_control = socket.socketpair()
        with judge_end, judge_control, nursery_control:
            self._run("judge.py", judge_end, judge_control)
            self._run("nursery.py", nursery_control, before=["serve"], after=[self._mode])

    def _run(self, script: str, *ends: socket.socket, before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
        fds = [end.fileno() for end in ends]
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(
            _command(script, *before, *map(str, fds), *after),
            pass_fds=fds,
            env=isolation.clean_environment(os.environ),
            cwd="/",
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            start_new_session=True,
        )
        self._processes.append(process)


class Pool:
    """All workers of this process, and the rule for what happens when grading itself breaks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._mode = MODES[0]
        self._workers: list[Worker] = []
        self._failures = 0  # of the control, since grading last worked

    def grade(self, items: Sequence[Submission], workers: int, limits: Limits, mode: str) -> list[Result]:
        """Grade each item; first all of them side by side, then, alone, those whose grading broke."""
        with self._lock:
            if mode != self._mode:
                self.close()
                self._mode = mode
            while len(self._workers) < min(workers, len(items)):
                self._workers.append(Worker(mode))
            try:
                results = _grade_together(items, self._workers[:workers], limits)
                results = [
                    result or self._grade_alone(item, limits) for item, result in zip(items, results, strict=True)
                ]
            except BaseException:  # Ctrl-C, say: workers may be in the middle of a program
                self.close()
                raise
            if all(outcome != Outcome.INFRASTRUCTURE_FAILED for outcome, _ in results):
                self._failures = 0
            return results

    def close(self) -> None:
        """End all workers and leave no process."""
        with self._lock:
            for worker in self._workers:
                worker.stop()
            self._workers = []

    def after_fork(self) -> None:
        """Start over in a forked child: the workers, and perhaps a held lock, are its parent's."""
        for worker in self._workers:
            worker.forget()
        self.__init__()

    def _grade_alone(self, item: Submission, limits: Limits) -> Result:
        """Grade again what broke its grader, with fresh processes; tell a breaking program from a broken machine."""
        result = self._grade_fresh(item, limits)
        if result is not None:
            return result
        control = self._grade_fresh(CONTROL, limits_for())
        if control is not None and control[0] == Outcome.PASSED:
            return Outcome.ERROR, "broke the processes that graded it, twice, the second time alone"
        self._failures += 1
        if self._failures > 1:
            raise GradingError(f"Grading does not work here: no known good program can be graded with {_command()}.")
        return Outcome.INFRASTRUCTURE_FAILED, "a known good program cannot be graded here either"

    def _grade_fresh(self, item: Submission, limits: Limits) -> Result | None:
        worker = Worker(self._mode)
        try:
            return _grade_together([item], [worker], limits)[0]
        finally:
            worker.stop()


_pool = Pool()
atexit.register(_pool.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.after_fork)


def grade_programs(
    items: Sequence[Submission],
    *,
    workers: int | None = None,
    timeout: float = CPU_SECONDS,
    memory: int = MEMORY_BYTES,
    mode: str | None = None,
) -> list[Verdict]:
    """Grade untrusted programs against their tests; one verdict each, in the order of `items`.

    workers: programs graded at a time (default: the processor cores this process may use). timeout: seconds of
    processor time per program; one that sleeps is ended after 5 + 5 * timeout seconds. memory: bytes per program.
    mode: "fork", or "spawn" for a new interpreter per program (slower; the default where there is no fork).
    Equal items are graded once. Raises BrokenTestsError where a problem's own tests do not run, and GradingError where
    grading does not work on this machine.
    """
    mode = _checked_mode(mode)
    if timeout <= 0 or memory <= 0 or (workers is not None and workers < 1):
        raise ValueError(f"workers, timeout and memory must be positive, not {workers}, {timeout} and {memory}.")
    too_long = Verdict(Outcome.ERROR, f"the program is longer than {MAX_PROGRAM} characters")
    verdicts = {item: too_long for item in items if len(item.program) > MAX_PROGRAM}
    distinct = [item for item in dict.fromkeys(items) if item not in verdicts]
    results = _pool.grade(distinct, workers or _cores(), limits_for(timeout, memory), mode)
    for item, (outcome, message) in zip(distinct, results, strict=True):
        if outcome == BROKEN_TESTS:
            raise BrokenTestsError(f"The problem '{item.entry_point}' cannot be graded: {message}.")
        verdicts[item] = Verdict(Outcome(outcome), message)
    return [verdicts[item] for item in items]


def close_pool() -> None:
    """End the grading processes; the next call starts new ones. Runs by itself when the interpreter exits."""
    _pool.close()


def isolation_report() -> dict[str, isolation.LayerState]:
    """Say for each layer of isolation whether it is on here, and what it does or why it is not: name -> (on, detail).

    The layers that need the operating system are tried in a process like the one that runs a program.
    """
    environment = isolation.clean_environment(os.environ)
    tried = subprocess.run(_command("nursery.py", "report"), env=environment, capture_output=True, check=True)
    layers = {name: isolation.LayerState(*state) for name, state in json.loads(tried.stdout).items()}
    return {**isolation.ALWAYS, **layers, **isolation.NOT_COVERED}


def _grade_together(items: Sequence[Submission], workers: Sequence[Worker], limits: Limits) -> list[Result | None]:
    """Grade side by side; None for an item whose grading broke."""
    results: list[Result | None] = [None] * len(items)
    waiting, idle = deque(range(len(items))), list(workers)
    busy: dict[Worker, int] = {}
    while waiting or busy:
        while waiting and idle:
            worker, index = idle.pop(), waiting.popleft()
            if worker.submit(items[index], limits):
                busy[worker] = index
            else:
                idle.append(worker)
        for worker in _finished(busy):
            results[busy.pop(worker)] = worker.collect()
            idle.append(worker)
    return results


def _finished(busy: dict[Worker, int]) -> list[Worker]:
    """The workers that have something to say, or are beyond their deadline; waits a second for one at most."""
    with selectors.DefaultSelector() as selector:
        for worker in busy:
            selector.register(worker.sock, selectors.EVENT_READ, worker)
        ready = [key.data for key, _ in selector.select(1.0)] if busy else []
    return ready or [worker for worker in busy if worker.deadline < time.monotonic()]


def _checked_mode(mode: str | None) -> str:
    if not hasattr(socket, "send_fds") or not sys.executable:
        raise GradingError("Grading needs Linux or macOS; on Windows use WSL, the Windows Subsystem for Linux.")
    mode = mode or (MODES[0] if hasattr(os, "fork") else MODES[1])
    if mode not in MODES:
        raise ValueError(f"mode must be 'fork' or 'spawn', not {mode!r}.")
    return mode


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _command(script: str = "judge.py", *arguments: str) -> list[str]:
    return [sys.executable, *isolation.PYTHON_FLAGS, str(HERE / script), *arguments]
