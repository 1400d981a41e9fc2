"""Grade untrusted programs against tests that never enter the process which runs them.

Three kinds of process share the work. A *judge* holds the tests and decides. A *nursery* starts a fresh process for
each program. That process, the *player*, runs one program. Only values cross between judge and player, never code.

What is covered: a program cannot read its tests or forge its verdict. It cannot read or change your files, use the
network, start or signal processes, or take more memory and processor time than you allow. `isolation_report()` says
which of the layers that enforce this are on here.

`values.WHAT_CROSSES` lists the values that cross, those that do not, and what a test cannot see.

What is not covered: faults in the kernel or in Python itself, and time as a channel between programs. If your system
offers none of the layers, programs run with your rights. For hostile users, add a virtual machine around it.

Why the scripts import each other by `sys.path`: judge and nursery run as scripts in interpreters of their own, which
start in milliseconds, load nothing of the caller's, and must leave nothing of ours on a program's path. So they import
isolation, tally, values, verdict and wire without this package. Type checkers and editors need this folder on their
path to follow those imports.

Take it with you: everything here is standard library, and the folder works under any name. Copy it into your project,
say as `grader/`, and `from grader import Submission, grade_programs`.
"""

from .pool import close_pool, grade_programs, isolation_report
from .verdict import BrokenTestsError, GradingError, LayerState, Outcome, Submission, Verdict

__all__ = ["BrokenTestsError", "GradingError", "LayerState", "Outcome", "Submission", "Verdict"]
__all__ += ["close_pool", "grade_programs", "isolation_report"]
