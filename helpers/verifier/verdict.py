"""What goes into grading and what comes out of it."""

from enum import StrEnum
from typing import NamedTuple

# What the judge reports if something outside killed the player. The pool grades such a program again.
KILLED = "killed"
ENDLESS_TESTS = "the tests did not come to an end with the value it returned"


class Outcome(StrEnum):
    """How grading one program ended. Only PASSED earns a reward; the last two say nothing about the program."""

    PASSED = "passed"
    # An assertion failed, or the program returned something that cannot be graded.
    FAILED = "failed"
    # The program does not load, ended its own process, or broke the processes that graded it.
    ERROR = "error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    # The problem's own prompt or tests do not work, whatever program is graded.
    BROKEN_TESTS = "broken_tests"
    # A program that is known to be correct cannot be graded here either.
    INFRASTRUCTURE_FAILED = "infrastructure_failed"


class Submission(NamedTuple):
    """One program to grade: the program, the problem's own prompt and tests, and the name of the function tested."""

    program: str
    prompt: str
    test: str
    entry_point: str


class Verdict(NamedTuple):
    """How grading ended, and one line that says why.

    If each assert was judged by itself, `asserts` is how many assert statements ran, and `held` is how many of them
    held: one that ran several times adds the fraction of the times that it held.
    """

    outcome: Outcome
    message: str
    held: float = 0
    asserts: int = 0

    @property
    def passed(self) -> bool:
        """Whether `check` came to its end in the judge, with every assertion held."""
        return self.outcome is Outcome.PASSED

    @property
    def graded(self) -> bool:
        """Whether this says anything about the program: False if the fault is the problem's or the machine's."""
        return self.outcome not in (Outcome.BROKEN_TESTS, Outcome.INFRASTRUCTURE_FAILED)

    @property
    def share(self) -> float:
        """The fraction of the asserts that held. Without asserts it is 1.0 if the tests passed, else 0.0."""
        return self.held / self.asserts if self.asserts else float(self.passed)


class Limits(NamedTuple):
    """What one program may use: seconds of processor time, bytes of address space, seconds on the wall clock."""

    cpu: float
    memory: int
    wall: float


class Job(NamedTuple):
    """What the judge receives: a submission, its limits, and whether each assert counts by itself."""

    submission: Submission
    limits: Limits
    each_assert: bool = False


class Result(NamedTuple):
    """What the judge sends back: an Outcome or KILLED, the message, the counts, and whether the program was confined.

    A program is confined if at least one layer kept it away from files and other processes.
    """

    outcome: str
    message: str
    held: float = 0
    asserts: int = 0
    confined: bool = True


class LayerState(NamedTuple):
    """One line of the isolation report."""

    on: bool
    detail: str


class BrokenTestsError(ValueError):
    """A problem's own prompt or tests do not work, whatever program is graded. For callers who need an exception."""


class GradingError(RuntimeError):
    """Grading does not work on this machine."""
