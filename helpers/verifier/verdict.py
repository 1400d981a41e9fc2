"""What goes into grading and what comes out of it."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How grading one program ended; only PASSED earns reward, and only INFRASTRUCTURE_FAILED says nothing about it."""

    PASSED = "passed"
    FAILED = "failed"  # the tests did not hold
    ERROR = "error"  # the program does not load, ended itself, or broke what graded it
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    INFRASTRUCTURE_FAILED = "infrastructure_failed"  # a known good program cannot be graded here either


BROKEN_TESTS = "broken tests"  # what the judge says of a problem, not of a program; raised as BrokenTestsError


@dataclass(frozen=True)
class Submission:
    """One program to grade: the program, the problem's own prompt and tests, and the name of the function tested."""

    program: str
    prompt: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class Verdict:
    """How grading ended, and one line that says why."""

    outcome: Outcome
    message: str

    @property
    def passed(self) -> bool:
        """Whether `check` came to its end in the judge, with every assertion held."""
        return self.outcome is Outcome.PASSED


class BrokenTestsError(ValueError):
    """A problem whose own prompt or tests do not run, whatever program is graded."""


class GradingError(RuntimeError):
    """Grading does not work on this machine."""
