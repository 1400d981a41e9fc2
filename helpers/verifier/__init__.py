"""Grade untrusted programs against tests that never enter the process which runs them.

A *judge* holds the tests and decides, a *nursery* starts a fresh process for each program, and that *player* runs it:
only plain values cross. Everything here is standard library, and starts in milliseconds.
"""

from .isolation import LayerState
from .pool import close_pool, grade_programs, isolation_report
from .verdict import BrokenTestsError, GradingError, Outcome, Submission, Verdict

__all__ = [
    "BrokenTestsError",
    "GradingError",
    "LayerState",
    "Outcome",
    "Submission",
    "Verdict",
    "close_pool",
    "grade_programs",
    "isolation_report",
]
