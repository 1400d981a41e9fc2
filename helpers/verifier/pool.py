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
from .verdict import BrokenTestsError, GradingError, Outcome, Submission, Verdict

HERE = Path(__file__).resolve().parent
PYTHON_FLAGS = ("-s", "-P")  # not -I: it would ignore PYTHONHASHSEED, and set order, hence verdicts, would vary
CPU_SECONDS = 2.0
MEMORY_BYTES = 512 << 20
JUDGE_SECONDS = 60.0  # on top of a program's own wall-clock limit; only a judge that hangs gets there
EXIT_SECONDS = 2.0
BROKEN_TESTS = "broken tests"

# Known to be right: where this cannot be graded either, the fault is not the program's.
CONTROL = Submission(
    program="def double(x):\n    return 2 * x\n",
    prompt="def double(x):\n",
    test="def check(candidate):\n    assert candidate(21) == 42\n",
    entry_point="double",
)


def wall_seconds(timeout: float) -> float:
    """How long a program may take that does not use the processor: generous, so that a busy machine changes nothing."""
    return 5.0 + 5.0 * timeout


class Worker:
    """One judge and one nursery."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._processes: list[subprocess.Popen] = []
        self.sock: socket.socket | None = None

    def submit(self, item: Submission, timeout: float, memory: int) -> None:
        """Give the judge one program, starting both processes where they are not running. Raises OSError."""
        if self.sock is None:
            self._start()
        wall = wall_seconds(timeout)
        self.sock.settimeout(JUDGE_SECONDS)
        job = (item.program, item.prompt, item.test, item.entry_point, timeout, memory, wall)
        wire.Channel(self.sock).send(job)

    def verdict(self) -> tuple[str, str]:
        """Read (outcome, message). Raises OSError, EOFError or WireError where the judge is gone."""
        outcome, message = wire.Channel(self.sock).receive()
        return outcome, message

    def stop(self) -> None:
        """End both processes. The judge first: the nursery then ends its player and leaves by itself."""
        self.forget()
        for process in self._processes:
            if process is self._processes[0]:
                process.kill()
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    def forget(self) -> None:
        """Close this process's end of the connection."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def _start(self) -> None:
        self.sock, judge_end = socket.socketpair()
        judge_control, nursery_control = socket.socketpair()
        with judge_end, judge_control, nursery_control:
            fds = (judge_end.fileno(), judge_control.fileno())
            self._processes.append(_interpreter("judge.py", fds, *map(str, fds)))
            fd = nursery_control.fileno()
            self._processes.append(_interpreter("nursery.py", (fd,), "serve", str(fd), self._mode))


class Pool:
    """Workers of one mode, and the rule for what happens when grading itself breaks."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._workers: list[Worker] = []
        self._infrastructure_failures = 0

    def grade(self, items: Sequence[Submission], workers: int, timeout: float, memory: int) -> list[tuple[str, str]]:
        """Grade each item; first all of them side by side, then, alone, those whose grading broke."""
        limits = (timeout, memory)
        while len(self._workers) < min(workers, len(items)):
            self._workers.append(Worker(self.mode))
        try:
            results = self._grade_together(items, self._workers[:workers], limits)
            return [result or self._grade_alone(item, limits) for item, result in zip(items, results, strict=True)]
        except BaseException:  # Ctrl-C, say: workers may be in the middle of a program
            self.close()
            raise

    def close(self) -> None:
        """End all workers and leave no process."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def forget(self) -> None:
        """Let go of workers that belong to the process this one was forked from."""
        for worker in self._workers:
            worker.forget()
        self._workers = []

    def _grade_together(self, items: Sequence[Submission], workers: list[Worker], limits: tuple) -> list:
        results: list[tuple[str, str] | None] = [None] * len(items)
        waiting, idle = deque(range(len(items))), list(workers)
        busy: dict[Worker, tuple[int, float]] = {}
        with selectors.DefaultSelector() as selector:
            while waiting or busy:
                while waiting and idle:
                    worker, index = idle.pop(), waiting.popleft()
                    busy[worker] = (index, time.monotonic() + wall_seconds(limits[0]) + JUDGE_SECONDS)
                    if _submitted(worker, items[index], limits):
                        selector.register(worker.sock, selectors.EVENT_READ, worker)
                    else:
                        idle.append(worker)
                        del busy[worker]
                ready = {key.data for key, _ in selector.select(timeout=1.0)} if busy else set()
                late = {worker for worker, (_, deadline) in busy.items() if deadline < time.monotonic()}
                for worker in ready | late:
                    selector.unregister(worker.sock)
                    index, _ = busy.pop(worker)
                    results[index] = _collected(worker) if worker in ready else worker.stop()
                    idle.append(worker)
        return results

    def _grade_alone(self, item: Submission, limits: tuple) -> tuple[str, str]:
        """Grade again what broke its grader, with fresh processes; tell a breaking program from a broken machine."""
        [result] = self._grade_fresh(item, limits)
        if result is not None:
            return result
        [control] = self._grade_fresh(CONTROL, (CPU_SECONDS, MEMORY_BYTES))
        if control is not None and control[0] == Outcome.PASSED:
            self._infrastructure_failures = 0
            return Outcome.ERROR, "broke the processes that graded it, twice, the second time alone"
        self._infrastructure_failures += 1
        if self._infrastructure_failures > 1:
            raise GradingError(f"Grading does not work here: a known good program cannot be graded with {_command()}.")
        return Outcome.INFRASTRUCTURE_FAILED, "a known good program cannot be graded here either"

    def _grade_fresh(self, item: Submission, limits: tuple) -> list[tuple[str, str] | None]:
        worker = Worker(self.mode)
        try:
            return self._grade_together([item], [worker], limits)
        finally:
            worker.stop()


class PoolHolder:
    """The one pool of this process, made when first needed, and anew after a fork."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pool: Pool | None = None

    def get(self, mode: str) -> Pool:
        if self.pool is not None and self.pool.mode != mode:
            self.close()
        if self.pool is None:
            self.pool = Pool(mode)
        return self.pool

    def close(self) -> None:
        with self.lock:
            if self.pool is not None:
                self.pool.close()
                self.pool = None

    def after_fork(self) -> None:
        self.lock = threading.RLock()
        if self.pool is not None:
            self.pool.forget()
            self.pool = None


_holder = PoolHolder()
atexit.register(_holder.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_holder.after_fork)


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
    processor time per program; what sleeps is ended after `wall_seconds(timeout)`. memory: bytes per program.
    mode: "fork", or "spawn" for a new interpreter per program (slower; the default where there is no fork).
    Equal items are graded once. Raises BrokenTestsError where a problem's own tests do not run, and GradingError where
    grading does not work on this machine.
    """
    mode = _checked_mode(mode)
    if timeout <= 0 or memory <= 0 or (workers is not None and workers < 1):
        raise ValueError(f"workers, timeout and memory must be positive, not {workers}, {timeout} and {memory}.")
    distinct = list(dict.fromkeys(items))
    with _holder.lock:
        results = _holder.get(mode).grade(distinct, workers or _cores(), timeout, memory) if distinct else []
    for item, (outcome, message) in zip(distinct, results, strict=True):
        if outcome == BROKEN_TESTS:
            raise BrokenTestsError(f"The problem '{item.entry_point}' cannot be graded: {message}.")
    verdicts = {item: Verdict(Outcome(o), message) for item, (o, message) in zip(distinct, results, strict=True)}
    return [verdicts[item] for item in items]


def close_pool() -> None:
    """End the grading processes; the next call starts new ones. Runs by itself when the interpreter exits."""
    _holder.close()


def isolation_report() -> dict[str, isolation.LayerState]:
    """Say for each layer of isolation whether it is on here, and what it does or why it is not: name -> (on, detail).

    The layers that need the operating system are tried in a process like the one that runs a program.
    """
    tried = subprocess.run(_command("nursery.py", "report"), env=_environment(), capture_output=True, check=True)
    layers = {name: isolation.LayerState(*state) for name, state in json.loads(tried.stdout).items()}
    return {**isolation.ALWAYS, **layers, **isolation.NOT_COVERED}


def _submitted(worker: Worker, item: Submission, limits: tuple) -> bool:
    try:
        worker.submit(item, *limits)
    except OSError:
        worker.stop()
        return False
    return True


def _collected(worker: Worker) -> tuple[str, str] | None:
    try:
        return worker.verdict()
    except (OSError, EOFError, wire.WireError):
        return worker.stop()


def _checked_mode(mode: str | None) -> str:
    if not hasattr(socket, "AF_UNIX") or not hasattr(socket, "send_fds"):
        raise GradingError("Grading needs Linux or macOS; on Windows use WSL, the Windows Subsystem for Linux.")
    mode = mode or ("fork" if hasattr(os, "fork") else "spawn")
    if mode not in ("fork", "spawn"):
        raise ValueError(f"mode must be 'fork' or 'spawn', not {mode!r}.")
    return mode


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _environment() -> dict[str, str]:
    return isolation.clean_environment(os.environ)


def _command(script: str = "judge.py", *arguments: str) -> list[str]:
    return [sys.executable, *PYTHON_FLAGS, str(HERE / script), *arguments]


def _interpreter(script: str, fds: tuple[int, ...], *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        _command(script, *arguments),
        pass_fds=fds,
        env=_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
