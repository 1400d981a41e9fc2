"""Grade untrusted programs against tests that never enter the process which runs them.

A *judge* holds the tests and decides, a *nursery* starts a fresh process for each program, and that *player* runs it:
only plain values cross. Everything here is standard library, and starts in milliseconds.
"""

from .pool import close_pool, grade_programs, isolation_report
from .verdict import BrokenTestsError, GradingError, LayerState, Outcome, Submission, Verdict

__all__ = ["BrokenTestsError", "GradingError", "LayerState", "Outcome", "Submission", "Verdict"]
__all__ += ["close_pool", "grade_programs", "isolation_report"]
