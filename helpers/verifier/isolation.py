"""What the operating system does to hold a program under test: one entry of LAYERS each, applied in order.

Runs in the player, just before it reads the untrusted program. A layer that the machine does not offer raises, is left
out, and shows as off in the report; grading goes on without it.
"""

import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

try:
    import resource
except ImportError:  # not a Unix
    resource = None

PYTHON_FLAGS = ("-s", "-P")  # not -I: it would ignore PYTHONHASHSEED, and set order, hence verdicts, would vary
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # some interpreters do not start without
PLAYER_FD = 3  # where the player's socket ends up; nothing else stays open above stderr
MAX_OPEN_FILES = 32
PR_SET_PDEATHSIG = 1
ON_LINUX = sys.platform.startswith("linux")
_prctl = ctypes.CDLL(None).prctl if ON_LINUX else None


class Limits(NamedTuple):
    """What one program may use: seconds of processor time, bytes of address space, seconds on the wall clock."""

    cpu: float
    memory: int
    wall: float


class LayerState(NamedTuple):
    """One line of the isolation report."""

    on: bool
    detail: str


class Layer(NamedTuple):
    """One measure: its name, what it does, and the call that puts it on for the calling process, for good."""

    name: str
    what: str
    apply: Callable[[Limits], None]


def clean_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of judge, nursery and player: no secrets, and string hashes that never vary."""
    kept = {name: inherited[name] for name in KEPT_VARIABLES if name in inherited}
    return {**kept, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}


def take_only_socket(fd: int) -> None:
    """Move the player's socket to PLAYER_FD, close every other descriptor, and point the standard three at nothing."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if fd != PLAYER_FD:
        os.dup2(fd, PLAYER_FD)
    os.closerange(PLAYER_FD + 1, min(os.sysconf("SC_OPEN_MAX"), 1 << 16))


def confine(limits: Limits) -> dict[str, LayerState]:
    """Put every layer on for the calling process, and say which ones took."""
    return {layer.name: _apply(layer, limits) for layer in LAYERS}


def cpu_seconds(pid: int) -> float:
    """Processor time that process has used, all its threads together; 0.0 where the system has no such clock.

    Measured from outside, so the program cannot stop the clock. The clock's number is the one that
    `clock_getcpuclockid(3)` gives on Linux.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2) if ON_LINUX else 0.0
    except OSError:  # already gone
        return 0.0


def kill_player(pid: int) -> None:
    """Kill the process, and the group it leads, if it still has one."""
    for kill in (os.kill, os.killpg):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _apply(layer: Layer, limits: Limits) -> LayerState:
    try:
        layer.apply(limits)
    except Exception as error:  # a missing system call shows in many ways; the report says which
        return LayerState(False, f"not to be had here ({type(error).__name__}: {error})")
    return LayerState(True, layer.what)


def _new_session(_: Limits) -> None:
    if os.getpid() != os.getsid(0):  # a player started as a new interpreter leads its session already
        os.setsid()


def _die_with_nursery(_: Limits) -> None:
    if _prctl is None or _prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError("no prctl")


def _limit_cpu(limits: Limits) -> None:
    seconds = math.ceil(limits.cpu) + 1  # whole seconds only: the judge's own clock is the finer one and ends it first
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _limit_memory(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))


def _limit_files(_: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))


LAYERS = (
    Layer("session", "a session and process group of its own, killed as a group", _new_session),
    Layer("dies with its parent", "the kernel kills the player when its nursery ends", _die_with_nursery),
    Layer("cpu limit", "the judge's clock on the player, with RLIMIT_CPU behind it", _limit_cpu),
    Layer("memory limit", "RLIMIT_AS", _limit_memory),
    Layer("file limits", f"files of 0 bytes, no core dump, {MAX_OPEN_FILES} descriptors", _limit_files),
)
# What every player has without the system's help, and what none has yet: the report names both.
ALWAYS = {
    "separate processes": LayerState(True, "the tests never enter a process that runs, ran or forked the program"),
    "clean environment": LayerState(True, "no variable of the caller's reaches the program"),
    "closed descriptors": LayerState(True, "one socket to the judge; stdin, stdout and stderr lead nowhere"),
}
NOT_COVERED = {
    "unprivileged user": LayerState(False, "not built in: the program runs as the user who grades"),
    "namespaces": LayerState(False, "not built in: the program can use the network and see other processes"),
    "Landlock": LayerState(False, "not built in: the program can read and delete what its user can"),
    "seccomp": LayerState(False, "not built in: no system call is refused, so it can start processes"),
}
