"""What the operating system does to hold a program under test. No other module asks it for that.

The two tables at the end are the whole of it, in the order in which the layers are put on: some on the nursery, whose
players inherit them, the rest on each player before it reads the program. Nothing takes them off again. A layer that
this machine does not offer is left out, and the report says so, and what is left without it.

What must go on working below: memory, time, open descriptors, reading Python's own library. Nothing else does.
C functions are those of the Linux manual, section 2; numbers come from the kernel's include/uapi.
"""

import ctypes
import math
import os
import platform
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from verdict import LayerState, Limits

STDLIB = os.path.dirname(os.__file__)  # Python's own library: all that a program can read of the file system,
INSTALLED = ("site-packages", "dist-packages")  # but for what is installed in it: that may be a data set with its tests
ONLY_FD = 3  # the socket to the judge; nothing else stays open above stderr
MAX_OPEN_FILES = 32
UNUSED_UID, NOBODY = 2_000_000_000, 65534  # the first plus a process id: a user with no file and no other process
ROOT = os.geteuid() == 0
LINUX = sys.platform.startswith("linux")

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 1 << 17, 1 << 27, 1 << 28, 1 << 30
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 1 << 12, 1 << 14, 1 << 18, 2
MOUNT_ATTR_RDONLY, AT_FDCWD, AT_RECURSIVE = 1, -100, 1 << 15
CAPABILITY_VERSION_3 = struct.pack("Ii", 0x20080522, 0)
LANDLOCK_RULESET_VERSION, LANDLOCK_PATH_BENEATH, LANDLOCK_READ_FILE, LANDLOCK_READ_DIR = 1, 1, 1 << 2, 1 << 3
# Numbers of system calls that the C library does not offer; where there are two, for x86-64 and aarch64.
MACHINE = {"x86_64": 0, "aarch64": 1}.get(platform.machine()) if LINUX and sys.maxsize >> 32 else None
PIVOT_ROOT, OPENAT, AUDIT_ARCH = (155, 41), (257, 56), (0xC000003E, 0xC00000B7)
MOUNT_SETATTR, LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 442, 444, 445, 446
# The system calls that a player keeps, with both numbers; beside these it may open files, for reading only. All others
# are refused: sockets, processes, threads, signals, changes to files and attributes, limits, namespaces, io_uring, ...
ALLOWED = """
read 0 63, write 1 64, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, poll 7 -, lseek 8 62, mmap 9 222, mprotect 10 226,
munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, pread64 17 67,
access 21 -, select 23 -, sched_yield 24 124, mremap 25 216, madvise 28 233, nanosleep 35 101, getpid 39 172,
exit 60 93, uname 63 160, getcwd 79 17, readlink 89 -, gettimeofday 96 169, getrusage 98 165, sysinfo 99 179,
times 100 153, getuid 102 174, getgid 104 176, geteuid 107 175, getegid 108 177, getppid 110 173, sigaltstack 131 132,
gettid 186 178, time 201 -, futex 202 98, sched_getaffinity 204 123, getdents64 217 61, restart_syscall 219 128,
clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, exit_group 231 94, newfstatat 262 79,
readlinkat 267 78, faccessat 269 48, pselect6 270 72, ppoll 271 73, getcpu 309 168, getrandom 318 278, statx 332 291,
rseq 334 293, faccessat2 439 439
"""


class Layer(NamedTuple):
    """One measure: its name, what it does, what is left without it, and the call that puts it on this process."""

    name: str
    what: str
    otherwise: str
    apply: Callable[["Cage"], object]


class Cage:
    """The layers around a nursery and its players: which hold, and the next program's limits. `omit` is for tests."""

    def __init__(self, omit: Collection[str] = ()) -> None:
        self.states: dict[str, LayerState] = {}
        self.limits = Limits(2.0, 1 << 29, 15.0)
        self.ruleset: int | None = None
        self._taken: list[Callable[[Cage], object]] = []
        self._omit = omit

    def enter(self) -> None:
        """Put on the calling process, the nursery, what its players inherit."""
        self._try(NURSERY_LAYERS)
        with suppress(OSError):  # where it fails, each player says why
            self.ruleset = _landlock_ruleset()

    def try_on(self) -> None:
        """Put the other layers on the calling process, a player, as far as they go."""
        self._try(PLAYER_LAYERS)

    def keep(self, states: dict[str, LayerState]) -> None:
        """Keep to what took in a player before."""
        self.states = states
        self._taken = [layer.apply for layer in PLAYER_LAYERS if states[layer.name].on]

    def confine(self, limits: Limits) -> None:
        """Put on the calling process, a player, the layers that took before. Raises where one does not take now."""
        self.limits = limits
        for apply in self._taken:
            apply(self)

    def _try(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            self.states[layer.name] = LayerState(True, layer.what)
            try:
                if layer.name in self._omit:
                    raise InterruptedError("left out by a test")
                layer.apply(self)
            except Exception as error:  # a missing system call shows in many ways; the report says which
                detail = f"{layer.otherwise} ({type(error).__name__}: {error})"
                self.states[layer.name] = LayerState(False, detail)


def take_only(fd: int) -> None:
    """Make this descriptor ONLY_FD, and let stdin lead where stdout leads."""
    os.dup2(fd, ONLY_FD)
    os.dup2(1, 0)


def hide_memory(_: object = None) -> None:
    """Close this process's memory to all others of its user: no ptrace, no /proc/PID/mem, no core dump."""
    _call(_libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)


def cpu_seconds(pid: int) -> float:
    """Processor time that process has used, all its threads together; 0.0 where the system has no such clock.

    Measured from outside, so the program cannot stop the clock. The clock's number is the one that
    `clock_getcpuclockid(3)` gives on Linux.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2) if LINUX else 0.0
    except OSError:  # already gone
        return 0.0


def kill_player(pid: int) -> None:
    """Kill the process, and the group it leads, if it leads one yet."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


_libc = ctypes.CDLL(None, use_errno=True)
for _name in ("prctl", "capset", "syscall"):
    getattr(_libc, _name, None)  # looked up here, so that no player has to


def _call(function: Callable[..., int], *arguments: object) -> int:
    """Call the C library, and raise the OSError that a negative result stands for."""
    result = function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, value: int, _: Cage) -> None:
    _call(_libc.prctl, option, value, 0, 0, 0)


def _unshare(namespace: int, _: Cage) -> None:
    _call(_libc.unshare, namespace)


def _user_namespace(_: Cage) -> None:
    """Gain the rights that the namespaces below need. They hold inside only, and each player gives them up."""
    uid, gid = os.getuid(), os.getgid()
    _call(_libc.unshare, CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _mount_namespace(_: Cage) -> None:
    """Put a read-only root that holds STDLIB alone in place of the file system; it then needs no home folder's rights.

    It is built upon /proc, which every system has, and where no library can be.
    """
    root, library = b"/proc", STDLIB.encode()
    _call(_libc.unshare, CLONE_NEWNS)
    _call(_libc.mount, None, b"/", None, MS_REC | MS_PRIVATE, None)
    _call(_libc.mount, b"tmpfs", root, b"tmpfs", 0, b"size=64k,mode=755")
    os.makedirs(root + library)
    _call(_libc.mount, library, root + library, None, MS_BIND | MS_REC, None)
    for name in INSTALLED:
        if os.path.isdir(f"{STDLIB}/{name}"):
            _call(_libc.mount, b"tmpfs", root + library + f"/{name}".encode(), b"tmpfs", 0, b"size=4k")
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    _call(_libc.syscall, MOUNT_SETATTR, AT_FDCWD, root, AT_RECURSIVE, attributes, len(attributes))
    os.chdir(root)
    _call(_libc.syscall, PIVOT_ROOT[MACHINE], b".", b".")
    _call(_libc.umount2, b".", MNT_DETACH)
    os.chdir("/")


def _limit_cpu(cage: Cage) -> None:
    seconds = math.ceil(cage.limits.cpu) + 1  # whole seconds only: the judge's clock is finer, and comes first
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _limit_memory(cage: Cage) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (cage.limits.memory, cage.limits.memory))


def _limit_files(_: Cage) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_processes(_: Cage) -> None:
    if os.getuid() == 0:
        raise OSError("it does not bind root")
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _landlock_ruleset() -> int:
    """Refuse whatever this version of Landlock can refuse, and allow reading STDLIB again, INSTALLED left out."""
    version = _call(_libc.syscall, LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_RULESET_VERSION)
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1  # the file rights that this version knows
    network, scopes = 3, 3  # TCP bind and connect, from version 4; abstract sockets and signals to others, from 6
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _call(_libc.syscall, LANDLOCK_CREATE_RULESET, struct.pack("QQQ", files, network, scopes), size, 0)
    readable = {STDLIB: LANDLOCK_READ_DIR | LANDLOCK_READ_FILE}
    if any(os.path.isdir(f"{STDLIB}/{name}") and os.listdir(f"{STDLIB}/{name}") for name in INSTALLED):
        readable = {entry.path: LANDLOCK_READ_FILE for entry in os.scandir(STDLIB) if entry.name not in INSTALLED}
        readable[STDLIB] = LANDLOCK_READ_DIR
    for path, right in readable.items():
        opened = os.open(path, os.O_PATH)
        _call(_libc.syscall, LANDLOCK_ADD_RULE, ruleset, LANDLOCK_PATH_BENEATH, struct.pack("=Qi", right, opened), 0)
        os.close(opened)
    return ruleset


def _landlock(cage: Cage) -> None:
    ruleset = _landlock_ruleset() if cage.ruleset is None else cage.ruleset
    _call(_libc.syscall, LANDLOCK_RESTRICT_SELF, ruleset, 0)


def _close_descriptors(_: Cage) -> None:
    os.closerange(ONLY_FD + 1, MAX_OPEN_FILES)


def _unprivileged_user(_: Cage) -> None:
    uid = UNUSED_UID + os.getppid()
    os.setgroups([])
    try:
        os.setgid(uid)
    except OSError:  # a container that knows the usual 65,536 users only
        uid = NOBODY
        os.setgid(uid)
    os.setuid(uid)


def _no_capabilities(_: Cage) -> None:
    _call(_libc.capset, CAPABILITY_VERSION_3, bytes(24))


def _seccomp_filter() -> bytes:
    """The filter as the kernel reads it (struct sock_filter: code, jump if true, jump if false, operand)."""
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    number, architecture, open_flags = 0, 4, 32  # offsets in struct seccomp_data
    allow, refuse = (answer, 0, 0, 0x7FFF0000), (answer, 0, 0, 0x00050001)  # refused calls fail with EPERM
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_TMPFILE & ~os.O_DIRECTORY
    kept = [int(numbers[MACHINE]) for _, *numbers in map(str.split, ALLOWED.split(",")) if numbers[MACHINE] != "-"]
    steps = [(load, 0, 0, architecture), (equal, 1, 0, AUDIT_ARCH[MACHINE]), refuse]  # 32-bit calls have other numbers
    steps += [(load, 0, 0, number)]
    steps += [(equal, len(kept) + 3 - place, 0, one) for place, one in enumerate(kept)]  # jumps to the last line
    steps += [(equal, 0, 2, OPENAT[MACHINE]), (load, 0, 0, open_flags), (any_bit, 0, 1, writing), refuse, allow]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


_filter = ctypes.create_string_buffer(b"" if MACHINE is None else _seccomp_filter())
_filter_reference = struct.pack("HP", len(_filter) // 8, ctypes.addressof(_filter))  # struct sock_fprog


def _seccomp(_: Cage) -> None:
    if MACHINE is None:
        raise OSError("only for x86-64 and aarch64")
    _call(_libc.prctl, PR_SET_SECCOMP, 2, _filter_reference, 0, 0)


ALWAYS = {
    "separate processes": LayerState(True, "the tests never enter a process that runs, ran or forked the program"),
    "clean environment": LayerState(True, "no variable of the caller's reaches the program"),
}
# name, what it does, what is left without it
NURSERY_LAYERS = [
    Layer("user namespace", "the rights to make the next three", "without them", _user_namespace),
    Layer("network namespace", "no network", "left to seccomp", partial(_unshare, CLONE_NEWNET)),
    Layer("IPC namespace", "no shared memory of others", "left to seccomp", partial(_unshare, CLONE_NEWIPC)),
    Layer("mount namespace", "no file is there but Python's library", "left to Landlock", _mount_namespace),
    Layer("hidden memory", "nobody reads the nursery's, or the judge's", "left to Landlock", hide_memory),
    Layer("no new privileges", "none by setuid programs", "left to seccomp", partial(_prctl, PR_SET_NO_NEW_PRIVS, 1)),
    Layer("file limits", f"{MAX_OPEN_FILES} descriptors, 0 bytes a file, no core dump", "no such limit", _limit_files),
][ROOT:]
PLAYER_LAYERS = [
    Layer("session", "a process group of its own, killed as one", "killed alone", lambda _: os.setsid()),
    Layer("cpu limit", "the judge's clock on it, RLIMIT_CPU behind that", "left to the wall clock", _limit_cpu),
    Layer("memory limit", "RLIMIT_AS", "it can use all memory", _limit_memory),
    Layer("Landlock", "Python's library is all it may read, nothing to write", "file permissions count", _landlock),
    Layer("closed descriptors", "one socket; stdin, stdout, stderr lead nowhere", "a few more", _close_descriptors),
    *[Layer("unprivileged user", "a user who owns nothing", "it runs as root", _unprivileged_user)][:ROOT],
    Layer("process limit", "no children, no threads", "left to seccomp", _limit_processes),
    Layer("no capabilities", "none of root's rights", "those of who grades", _no_capabilities),
    # behind the change of user, which takes it off again
    Layer("ends with parent", "killed with its nursery", "ends with its socket", partial(_prctl, PR_SET_PDEATHSIG, 9)),
    Layer("seccomp", "all system calls but the few it needs are refused", "the others stand alone", _seccomp),
]
