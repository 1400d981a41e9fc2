"""What goes into grading and what comes out of it."""

from enum import StrEnum
from typing import NamedTuple

BROKEN_TESTS = "broken tests"  # what the judge says of a problem, not of a program; raised as BrokenTestsError
ENDLESS_TESTS = "the tests did not come to an end with what it returned"
Result = tuple[str, str, int, int]  # outcome, message, asserts that held, asserts in all


class Outcome(StrEnum):
    """How grading one program ended; only PASSED earns reward, and only INFRASTRUCTURE_FAILED says nothing about it."""

    PASSED = "passed"
    FAILED = "failed"  # the tests did not hold
    ERROR = "error"  # the program does not load, ended itself, or broke what graded it
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    INFRASTRUCTURE_FAILED = "infrastructure_failed"  # a known good program cannot be graded here either


class Submission(NamedTuple):
    """One program to grade: the program, the problem's own prompt and tests, and the name of the function tested."""

    program: str
    prompt: str
    test: str
    entry_point: str


class Verdict(NamedTuple):
    """How grading ended, one line that says why, and, where each assert was judged by itself, how many held of all."""

    outcome: Outcome
    message: str
    held: int = 0
    asserts: int = 0

    @property
    def passed(self) -> bool:
        """Whether `check` came to its end in the judge, with every assertion held."""
        return self.outcome is Outcome.PASSED

    @property
    def share(self) -> float:
        """The share of the asserts that held; of none, whether the tests passed."""
        return self.held / self.asserts if self.asserts else float(self.passed)


class Limits(NamedTuple):
    """What one program may use: seconds of processor time, bytes of address space, seconds on the wall clock."""

    cpu: float
    memory: int
    wall: float


class LayerState(NamedTuple):
    """One line of the isolation report."""

    on: bool
    detail: str


class BrokenTestsError(ValueError):
    """A problem whose own prompt or tests do not run, whatever program is graded."""


class GradingError(RuntimeError):
    """Grading does not work on this machine."""
