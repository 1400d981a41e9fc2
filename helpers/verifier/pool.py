"""A pool of graders: each worker is one judge and one nursery, started once as new interpreters and used again.

The calling process may have torch, CUDA and threads loaded. It is never forked, runs no thread for grading, and waits
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
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import values, wire
from .verdict import ENDLESS_TESTS, KILLED, GradingError, Job, LayerState, Limits, Outcome, Result, Submission, Verdict

# Not -I: it would ignore PYTHONHASHSEED. The order of sets, and with it verdicts, would then vary between runs.
PYTHON_FLAGS = ("-s", "-P")
# The whole environment of judge, nursery and player: no secrets, and hashes that never vary. With LD_BIND_NOW the
# nursery resolves all symbols once, so that no player has to.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "LD_BIND_NOW": "1"}
# Some interpreters do not start without these.
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

CPU_SECONDS = 2.0
MEMORY_BYTES = 512 << 20
# Characters. On the way to the player each may take up to 12 bytes.
MAX_PROGRAM = 1 << 17
# Bytes of prompt and tests on their way to the judge.
MAX_TESTS = 4 << 20
MAX_SECONDS = 100_000
# Added to a program's own wall-clock limit. Only a judge that hangs takes that long.
JUDGE_SECONDS = 60.0
EXIT_SECONDS = 2.0
# Seconds to wait before grading again a program whose player was killed. A machine short of memory may recover.
RETRY_AFTER = (0.0, 0.5, 2.0)
# This program is known to be correct. If it cannot be graded either, the fault is the machine's.
CONTROL = Submission(
    "def f(x):\n    return 2 * x\n", "", "def check(candidate):\n    assert candidate(21) == 42\n", "f"
)


class Setup(NamedTuple):
    """What workers are started with: modules to allow next to Python's own, and layers that a test leaves out."""

    modules: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()


class Worker:
    """One judge and one nursery, started with the first job."""

    sock: socket.socket

    def __init__(self, setup: Setup, core: int | None = None) -> None:
        self._setup, self._core = setup, core
        self._running = False
        self._processes: list[subprocess.Popen] = []

    def submit(self, job: Job) -> bool:
        """Give the judge a job. Returns False if the judge is gone."""
        self._deadline = time.monotonic() + job.limits.wall + JUDGE_SECONDS
        try:
            if not self._running:
                self._start()
            self._channel.send(values.dumps(job))
        except OSError:
            self.stop()
        return self._running

    def collect(self) -> Result | None:
        """Read the judge's result. Returns None if grading broke; both processes are then started again."""
        try:
            return Result(*values.loads(self._channel.receive()))
        except (OSError, EOFError, ValueError):
            judge = self._processes[0]
            self.stop()
            # The judge sets itself an alarm that ends it if one long call in the tests never returns.
            return Result(Outcome.TIMEOUT, ENDLESS_TESTS) if judge.returncode == -signal.SIGVTALRM else None

    def is_late(self) -> bool:
        """Whether the judge should have answered by now."""
        return time.monotonic() > self._deadline

    def stop(self) -> None:
        """End both processes. The judge goes first; the nursery then ends its player and exits by itself."""
        self._running = False
        if self._processes:
            self.sock.close()
            self._processes[0].kill()
        for process in self._processes:
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    def _start(self) -> None:
        # Ctrl-C may have interrupted an earlier stop(), so finish it first.
        self.stop()
        self.sock, judge_end = socket.socketpair()
        control, nursery_end = socket.socketpair()
        wire.limit_waiting(self.sock, 1.0)
        self._channel = wire.Channel(self.sock.fileno(), self._give_up)
        with judge_end, control, nursery_end:
            self._run(judge_end.fileno(), control.fileno(), "judge.py", *self._setup.modules)
            self._run(nursery_end.fileno(), subprocess.DEVNULL, "nursery.py", "serve", json.dumps(self._setup))
        self._running = True

    def _give_up(self) -> None:
        if self.is_late():
            raise TimeoutError

    def _run(self, stdin: int, stdout: int, *arguments: str) -> None:
        process = subprocess.Popen(
            command(*arguments),
            env=environment(),
            cwd="/",
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in a terminal goes to the caller only.
            start_new_session=True,
        )
        self._processes.append(process)
        if self._core is not None:
            # This process may have lost the core since it looked.
            with suppress(OSError):
                os.sched_setaffinity(process.pid, {self._core})


class Pool:
    """All workers of this process, and the rules for what happens if grading itself breaks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._setup = Setup()
        self._workers: list[Worker] = []
        # How often the control failed since grading last worked.
        self._failures = 0
        self._warned = False

    def grade(self, jobs: Sequence[Job], workers: int, setup: Setup) -> list[Result]:
        """Do all jobs side by side. Then do those whose grading broke again, each alone."""
        with self._lock:
            if setup != self._setup:
                self.close()
                self._setup = setup
            mine = cores()
            while (place := len(self._workers)) < min(workers, len(jobs)):
                # Judge, nursery and player take turns. If all cores are busy, one core for the three is a quarter
                # faster than any core.
                pinned = workers >= len(mine) and hasattr(os, "sched_setaffinity")
                self._workers.append(Worker(setup, mine[place % len(mine)] if pinned else None))
            try:
                found = dict(_grade_together(jobs, self._workers[:workers]))
                results = []
                for index, job in enumerate(jobs):
                    result = found[index]
                    if result is None or result.outcome == KILLED:
                        result = self._grade_alone(job)
                    results.append(result)
            except BaseException:
                # After Ctrl-C, for example, workers may be in the middle of a program.
                self.close()
                raise
            if all(result.outcome != Outcome.INFRASTRUCTURE_FAILED for result in results):
                self._failures = 0
            if not self._warned and not all(result.confined for result in results):
                self._warned = True
                warnings.warn(
                    "No layer of isolation works here, so the programs under test run with your rights. "
                    "isolation_report() says why.",
                    RuntimeWarning,
                    stacklevel=4,
                )
            return results

    def close(self) -> None:
        """End all workers and leave no process."""
        with self._lock:
            while self._workers:
                self._workers[-1].stop()
                self._workers.pop()

    def _grade_alone(self, job: Job) -> Result:
        """Grade again, alone and with fresh processes, and tell a program that breaks them from a broken machine."""
        for seconds in RETRY_AFTER:
            time.sleep(seconds)
            result = self._grade_fresh(job)
            if result is None:
                break
            if result.outcome != KILLED:
                return result
        control = self._grade_fresh(Job(CONTROL, job.limits))
        if control and control.outcome == Outcome.PASSED:
            if result:
                return Result(Outcome.OUT_OF_MEMORY, "killed from outside each time, at last when graded alone")
            return Result(Outcome.ERROR, "broke the processes that graded it, twice, the second time alone")
        self._failures += 1
        if self._failures > 1:
            raise GradingError(
                f"Grading does not work here: {command('judge.py')[0]} cannot even grade a program that is known to "
                "be correct. Look for what ends its processes; isolation_report() lists the layers around them."
            )
        return Result(Outcome.INFRASTRUCTURE_FAILED, "a program known to be correct cannot be graded here either")

    def _grade_fresh(self, job: Job) -> Result | None:
        worker = Worker(self._setup)
        try:
            [(_, result)] = _grade_together([job], [worker])
            return result
        finally:
            worker.stop()


_pool = Pool()
atexit.register(_pool.close)
if hasattr(os, "register_at_fork"):
    # In a forked child the workers are the parent's, and so is the lock, which may be held.
    os.register_at_fork(after_in_child=lambda: Pool.__init__(_pool))


def grade_programs(
    items: Sequence[Submission],
    *,
    workers: int | None = None,
    timeout: float = CPU_SECONDS,
    memory: int = MEMORY_BYTES,
    modules: Sequence[str] = (),
    each_assert: bool = False,
) -> list[Verdict]:
    """Grade untrusted programs against their tests. Returns one verdict for each item, in order.

    - workers: how many programs to grade at a time. By default, the processor cores that this process may use.
    - timeout: seconds of processor time per program. A program that only sleeps is stopped after 2 seconds of that, or
      after `timeout` if that is longer.
    - memory: bytes per program.
    - modules: what programs may import next to Python's own library, such as "numpy".
    - each_assert: continue after an assert that fails, and count those that hold (`Verdict.share`).

    Equal items are graded once. If a problem's own prompt or tests do not work, all of its items get the outcome
    BROKEN_TESTS with a message that says why, and all other items are graded as usual. If something outside kills a
    program, it is graded again. Raises ValueError for settings that cannot be used, and GradingError if grading does
    not work on this machine.

    >>> tests = "def check(candidate):\\n    assert candidate(2) == 4\\n"
    >>> programs = ["def square(x):\\n    return x * x\\n", "def square(x):\\n    raise SystemExit(0)\\n"]
    >>> [str(v.outcome) for v in grade_programs([Submission(p, "", tests, "square") for p in programs])]
    ['passed', 'error']
    """
    _refuse_other_systems()
    if not (0 < timeout <= MAX_SECONDS and 0 < memory < sys.maxsize) or (workers is not None and workers < 1):
        raise ValueError(f"workers, timeout and memory must be positive, not {workers}, {timeout} and {memory}.")
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"modules: there is no module named '{name}' here.")
    too_long = Verdict(Outcome.ERROR, f"the program is longer than {MAX_PROGRAM} characters")
    verdicts = {item: too_long for item in items if len(item.program) > MAX_PROGRAM}
    problems = dict.fromkeys(item[1:] for item in items)
    broken = {problem: "its tests are longer than 4 MiB" for problem in problems if _is_long(*problem[:2])}
    distinct = [item for item in dict.fromkeys(items) if item not in verdicts and item[1:] not in broken]
    jobs = [Job(item, limits_for(timeout, memory), each_assert) for item in distinct]
    for item, result in zip(distinct, _pool.grade(jobs, workers or len(cores()), Setup(tuple(modules))), strict=True):
        verdicts[item] = Verdict(Outcome(result.outcome), *result[1:4])
        if result.outcome == Outcome.BROKEN_TESTS:
            broken.setdefault(item[1:], result.message)
    # One program may fail before it comes to the line that is broken, and another reach it. Treat them alike.
    for item in items:
        if item[1:] in broken:
            verdicts[item] = Verdict(Outcome.BROKEN_TESTS, broken[item[1:]])
    return [verdicts[item] for item in items]


def close_pool() -> None:
    """End the grading processes. The next call starts new ones. Runs by itself when the interpreter exits."""
    _pool.close()


class Report(dict[str, LayerState]):
    """Maps each layer's name to (on, detail). Prints as a table."""

    def __repr__(self) -> str:
        return "\n".join(f"{name:<20}{'on' if on else 'OFF':<5}{detail}" for name, (on, detail) in self.items())


def isolation_report() -> Report:
    """Say for each layer of isolation whether it is on here, and what it does or what is missing without it.

    The layers are tried in a process like the one that runs a program. Raises GradingError if that fails.

    >>> isolation_report()["separate processes"].on
    True
    """
    _refuse_other_systems()
    tried = subprocess.run(
        command("nursery.py", "report", json.dumps(Setup())), env=environment(), capture_output=True, text=True
    )
    if tried.returncode:
        raise GradingError(f"Grading does not work here: {tried.stderr.strip().splitlines()[-1]}")
    return Report({name: LayerState(*state) for name, state in json.loads(tried.stdout).items()})


def limits_for(timeout: float = CPU_SECONDS, memory: int = MEMORY_BYTES) -> Limits:
    """Return limits with a wall clock so generous that a busy machine changes no verdict.

    Only the time that the judge itself is awake counts, so a machine that is paused changes none either.
    """
    return Limits(cpu=timeout, memory=int(memory), wall=10.0 + 10.0 * timeout)


def cores() -> list[int]:
    """Return the cores that this process may use: only its share if several training ranks run on this machine."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    share = max(1, len(mine) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    first = share * int(os.environ.get("LOCAL_RANK", 0)) % len(mine)
    return mine[first : first + share]


def environment() -> dict[str, str]:
    """Return the environment of the grading processes."""
    return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | ENVIRONMENT


def command(script: str, *arguments: str) -> list[str]:
    """Return the command that starts one of the scripts in this folder as a grading process."""
    return [sys.executable, *PYTHON_FLAGS, str(Path(__file__).with_name(script)), *arguments]


def _refuse_other_systems() -> None:
    if not (hasattr(os, "fork") and hasattr(socket, "send_fds") and sys.executable):
        raise GradingError("Grading needs Linux or macOS; on Windows use WSL, the Windows Subsystem for Linux.")


def _is_long(prompt: str, test: str) -> bool:
    # A character takes at most 12 bytes, so most tests need not be encoded to know that they are short enough.
    return 12 * (len(prompt) + len(test)) > MAX_TESTS and len(values.encode((prompt, test))) > MAX_TESTS


def _grade_together(jobs: Sequence[Job], workers: Sequence[Worker]) -> Iterator[tuple[int, Result | None]]:
    """Do the jobs side by side. Yields (index, result) as they end; the result is None if its grading broke."""
    waiting, idle = deque(enumerate(jobs)), list(workers)
    busy: dict[Worker, int] = {}
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
