"""Confine a program under test with what the operating system offers. No other module asks the system for that.

The two tables at the end list every layer in the order in which it is applied. Some go on the nursery, whose players
inherit them; the rest go on each player before it reads its program. Nothing removes them again. If this machine does
not offer a layer, that layer is skipped, and the report says so and says what is missing without it.

A player must still be able to use memory, time and its open descriptors, and to read Python's own library and the
shared libraries that this is linked with. It must not be able to do anything else. For C functions, see section 2 of
the Linux manual; constants come from the kernel's include/uapi. All of the confinement is in this module, so that you
can review it in one place.
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

# Python's own library is the only part of the file system that a program can read. Packages that are installed inside
# that folder stay hidden: one of them may be a data set with its tests.
STDLIB = os.path.dirname(os.__file__)
INSTALLED = ("site-packages", "dist-packages")
# The player's socket to the judge. Above stderr, no other descriptor stays open.
SOCKET_FD = 3
MAX_OPEN_FILES = 32
# Seconds of processor time that the judge may grant a program for encoding large values.
EXTRA_CPU = 8
# UNUSED_UID plus a process id gives a user who owns no file and no other process.
UNUSED_UID, NOBODY = 2_000_000_000, 65534
ROOT = os.geteuid() == 0
LINUX = sys.platform.startswith("linux")

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 1 << 17, 1 << 26, 1 << 27, 1 << 28, 1 << 30
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 1 << 12, 1 << 14, 1 << 18, 2
MOUNT_ATTR_RDONLY, AT_FDCWD, AT_RECURSIVE = 1, -100, 1 << 15
CAPABILITY_VERSION_3 = struct.pack("Ii", 0x20080522, 0)
LANDLOCK_RULESET_VERSION, LANDLOCK_PATH_BENEATH, LANDLOCK_READ_FILE, LANDLOCK_READ_DIR = 1, 1, 1 << 2, 1 << 3
# Numbers of system calls that the C library does not wrap. Pairs are for x86-64 and aarch64.
MACHINE = {"x86_64": 0, "aarch64": 1}.get(platform.machine()) if LINUX and sys.maxsize >> 32 else None
PIVOT_ROOT, AUDIT_ARCH = (155, 41), (0xC000003E, 0xC00000B7)
MOUNT_SETATTR, LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 442, 444, 445, 446
# The system calls that a player keeps, with their numbers on x86-64 and aarch64. The next table has the calls that it
# keeps only with certain arguments. All others are refused: sockets, processes, threads, signals, changes to files and
# attributes, limits, namespaces, ...
ALLOWED = """
read 0 63, write 1 64, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, poll 7 -, lseek 8 62, mmap 9 222, mprotect 10 226,
munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, pread64 17 67,
access 21 -, select 23 -, sched_yield 24 124, mremap 25 216, madvise 28 233, nanosleep 35 101, getpid 39 172,
exit 60 93, uname 63 160, getcwd 79 17, readlink 89 -, gettimeofday 96 169, getrusage 98 165, sysinfo 99 179,
times 100 153, getuid 102 174, getgid 104 176, geteuid 107 175, getegid 108 177, getppid 110 173, sigaltstack 131 132,
gettid 186 178, time 201 -, getdents64 217 61, restart_syscall 219 128, exit_group 231 94, newfstatat 262 79,
readlinkat 267 78, faccessat 269 48, pselect6 270 72, ppoll 271 73, getcpu 309 168, getrandom 318 278, statx 332 291,
rseq 334 293, faccessat2 439 439
"""
# Steps of a filter (struct sock_filter), and what a test of an argument decides.
LOAD, EQUAL, ANY_BIT, ANSWER = 0x20, 0x15, 0x45, 0x06
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY
# Calls with both numbers, then which argument is tested, how, against what, and whether a match allows the call.
ALLOWED_WITH = [
    ("openat", (257, 56), 2, ANY_BIT, WRITING, False),
    # A negative id is the processor clock of another process, which a program could use to signal to a later one.
    *[(f"clock {call}", call, 0, ANY_BIT, 1 << 31, False) for call in ((228, 113), (229, 114), (230, 115))],
    # FUTEX_PRIVATE_FLAG: without it, two programs could wake each other at a page of Python's library that both map.
    ("futex", (202, 98), 1, ANY_BIT, 128, True),
    # Only for the calling process itself: any other id tells which processes exist.
    ("sched_getaffinity", (204, 123), 0, EQUAL, 0, True),
]


class Layer(NamedTuple):
    """One measure: its name, what it gives, what happens without it, and the function that applies it."""

    name: str
    effect: str
    otherwise: str
    apply: Callable[["Confinement"], object]


class Confinement:
    """The layers on a nursery and its players, and the limits of the next program. `omit` leaves layers out, in tests.

    `states` says of each layer whether it works here. `libraries` are the shared libraries outside STDLIB that modules
    of STDLIB are linked with, and that a player may read, too.
    """

    def __init__(self, omit: Collection[str] = ()) -> None:
        self.states: dict[str, LayerState] = {}
        self.limits = Limits(2.0, 1 << 29, 15.0)
        self.ruleset: int | None = None
        self.libraries: list[str] = []
        self._working: list[Callable[[Confinement], object]] = []
        self._omit = omit

    def confine_nursery(self) -> None:
        """Apply the layers that players inherit to the calling process, the nursery."""
        self._try(NURSERY_LAYERS)
        # If this fails, it fails in each player again, and the report says why.
        with suppress(OSError):
            self.ruleset = _landlock_ruleset(self.libraries)

    def try_player_layers(self) -> None:
        """Apply the other layers to the calling process, a trial player, and note which ones work."""
        self._try(PLAYER_LAYERS)

    def use_working(self, states: dict[str, LayerState]) -> None:
        """From now on apply only the layers that worked in a trial player."""
        self.states = states
        self._working = [layer.apply for layer in PLAYER_LAYERS if states[layer.name].on]

    def confine_player(self, limits: Limits) -> None:
        """Apply the working layers to the calling process, a player. Raises if one of them fails now."""
        self.limits = limits
        for apply in self._working:
            apply(self)

    def read_files(self) -> None:
        """Read all files that players may read, so that all are in memory before the first program runs.

        A program could otherwise leave a message for later ones: how fast a file can be read tells whether somebody
        read it before.
        """
        buffer, paths = bytearray(1 << 20), list(self.libraries)
        for folder, folders, files in os.walk(STDLIB):
            folders[:] = [name for name in folders if name not in INSTALLED]
            paths += [f"{folder}/{name}" for name in files]
        for path in paths:
            with suppress(OSError), open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def _try(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            self.states[layer.name] = LayerState(True, layer.effect)
            try:
                if layer.name in self._omit:
                    raise InterruptedError("left out by a test")
                layer.apply(self)
            # A system call that is missing shows in many ways, so catch them all; the report names the exception.
            except Exception as error:
                detail = f"{layer.otherwise} ({type(error).__name__}: {error})"
                self.states[layer.name] = LayerState(False, detail)


def keep_only_socket(fd: int) -> None:
    """Move this socket to SOCKET_FD, and point stdin at /dev/null, as stdout already does."""
    os.dup2(fd, SOCKET_FD)
    os.dup2(1, 0)


def hide_memory(_: object = None) -> None:
    """Close this process's memory to all others of its user: no ptrace, no /proc/PID/mem, no core dump."""
    _call(_libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, all threads together; 0.0 if the system has no such clock.

    The clock is read from outside, so the program cannot stop it. Its number is the one that
    `clock_getcpuclockid(3)` gives on Linux.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2) if LINUX else 0.0
    except OSError:
        return 0.0  # The process is already gone.


def process_state(pid: int) -> str:
    """Return the state letter of a process from /proc, such as "R" or "S" for running or sleeping; "" if unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name of the program comes before the state and may contain spaces and parentheses.
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return ""


def expect_faults() -> None:
    """Ignore Ctrl-C, and let a machine that is short of memory kill this process and its children before others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def kill_player(pid: int) -> None:
    """Kill the process, and its process group if it already leads one."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


_libc = ctypes.CDLL(None, use_errno=True)
# Look these functions up once here, so that no player has to.
for _name in ("prctl", "capset", "syscall"):
    getattr(_libc, _name, None)


def _call(function: Callable[..., int], *arguments: object) -> int:
    """Call a function of the C library, and raise OSError if its result is negative."""
    result = function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, value: int, _: Confinement) -> None:
    _call(_libc.prctl, option, value, 0, 0, 0)


def _unshare(namespace: int, _: Confinement) -> None:
    _call(_libc.unshare, namespace)


def _host_name(_: Confinement) -> None:
    _call(_libc.unshare, CLONE_NEWUTS)
    _call(_libc.sethostname, b"player", 6)


def _user_namespace(_: Confinement) -> None:
    """Gain the rights that the next namespaces need. They hold only inside, and each player gives them up."""
    uid, gid = os.getuid(), os.getgid()
    _call(_libc.unshare, CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _mount_namespace(confinement: Confinement) -> None:
    """Replace the file system by a read-only root that holds only STDLIB and the shared libraries that it needs.

    The player can then read STDLIB even if it lies in a home folder that is closed to other users. The new root is
    mounted on /proc, because every system has that folder and no library can be inside it.
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
    for path in confinement.libraries:
        _bind_library(root, path.encode())
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    _call(_libc.syscall, MOUNT_SETATTR, AT_FDCWD, root, AT_RECURSIVE, attributes, len(attributes))
    os.chdir(root)
    _call(_libc.syscall, PIVOT_ROOT[MACHINE], b".", b".")
    _call(_libc.umount2, b".", MNT_DETACH)
    os.chdir("/")


def _bind_library(root: bytes, path: bytes) -> None:
    """Show a shared library in the new root, under its path and the links to it: the loader asks for one of those."""
    folder = os.path.dirname(path)
    os.makedirs(root + folder, exist_ok=True)
    os.close(os.open(root + path, os.O_CREAT))
    _call(_libc.mount, path, root + path, None, MS_BIND, None)
    for entry in os.scandir(folder):
        if entry.is_symlink() and os.path.realpath(entry.path) == path:
            os.symlink(path, root + entry.path)


def _limit_cpu(confinement: Confinement) -> None:
    # This limit takes whole seconds only. The judge's own clock is finer and stops the program first.
    seconds = math.ceil(confinement.limits.cpu + EXTRA_CPU) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _limit_memory(confinement: Confinement) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (confinement.limits.memory, confinement.limits.memory))


def _limit_files(_: Confinement) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_processes(_: Confinement) -> None:
    if os.getuid() == 0:
        raise OSError("it does not bind root")
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _landlock_ruleset(libraries: Sequence[str]) -> int:
    """Refuse everything that this version of Landlock can refuse, then allow reading STDLIB without INSTALLED.

    Reading `libraries` is allowed, too.
    """
    version = _call(_libc.syscall, LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_RULESET_VERSION)
    # One bit for each file right that this version knows.
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    # TCP bind and connect, from version 4 on; abstract sockets and signals to other processes, from version 6 on.
    network, scopes = 3, 3
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _call(_libc.syscall, LANDLOCK_CREATE_RULESET, struct.pack("QQQ", files, network, scopes), size, 0)
    readable = {STDLIB: LANDLOCK_READ_DIR | LANDLOCK_READ_FILE}
    if any(os.path.isdir(f"{STDLIB}/{name}") and os.listdir(f"{STDLIB}/{name}") for name in INSTALLED):
        # Landlock can only allow, so allow every entry of STDLIB except INSTALLED.
        readable = {entry.path: LANDLOCK_READ_FILE for entry in os.scandir(STDLIB) if entry.name not in INSTALLED}
        readable[STDLIB] = LANDLOCK_READ_DIR
    readable |= dict.fromkeys(libraries, LANDLOCK_READ_FILE)
    for path, right in readable.items():
        opened = os.open(path, os.O_PATH)
        _call(_libc.syscall, LANDLOCK_ADD_RULE, ruleset, LANDLOCK_PATH_BENEATH, struct.pack("=Qi", right, opened), 0)
        os.close(opened)
    return ruleset


def _landlock(confinement: Confinement) -> None:
    ruleset = _landlock_ruleset(confinement.libraries) if confinement.ruleset is None else confinement.ruleset
    _call(_libc.syscall, LANDLOCK_RESTRICT_SELF, ruleset, 0)


def _close_descriptors(_: Confinement) -> None:
    os.closerange(SOCKET_FD + 1, MAX_OPEN_FILES)


def _unprivileged_user(_: Confinement) -> None:
    uid = UNUSED_UID + os.getppid()
    os.setgroups([])
    try:
        os.setgid(uid)
    except OSError:
        # This container maps only the usual 65,536 users.
        uid = NOBODY
        os.setgid(uid)
    os.setuid(uid)


def _no_capabilities(_: Confinement) -> None:
    _call(_libc.capset, CAPABILITY_VERSION_3, bytes(24))


def _seccomp_filter() -> bytes:
    """Build the filter as the kernel reads it (struct sock_filter: code, jump if true, jump if false, operand)."""
    # Offsets in struct seccomp_data. The arguments are 64 bits each, and the low half comes first.
    number, architecture, arguments = 0, 4, 16
    # A refused call fails with EPERM.
    allow, refuse = (ANSWER, 0, 0, 0x7FFF0000), (ANSWER, 0, 0, 0x00050001)
    kept = [int(numbers[MACHINE]) for _, *numbers in map(str.split, ALLOWED.split(",")) if numbers[MACHINE] != "-"]
    # Calls of another architecture (32-bit ones) have other numbers, so refuse them first.
    steps = [(LOAD, 0, 0, architecture), (EQUAL, 1, 0, AUDIT_ARCH[MACHINE]), refuse]
    steps += [(LOAD, 0, 0, number)]
    # The filter ends with `refuse` and `allow`. Jumps count from the next step.
    total = len(steps) + len(kept) + 3 * len(ALLOWED_WITH) + 2
    steps += [(EQUAL, total - len(steps) - place - 2, 0, one) for place, one in enumerate(kept)]
    for _, numbers, argument, test, operand, allows in ALLOWED_WITH:
        to_allow, to_refuse = total - len(steps) - 4, total - len(steps) - 5
        decision = (to_allow, to_refuse) if allows else (to_refuse, to_allow)
        # Another call skips to the next three steps.
        steps += [(EQUAL, 0, 2, numbers[MACHINE]), (LOAD, 0, 0, arguments + 8 * argument), (test, *decision, operand)]
    return b"".join(struct.pack("HBBI", *step) for step in [*steps, refuse, allow])


_filter = ctypes.create_string_buffer(b"" if MACHINE is None else _seccomp_filter())
# struct sock_fprog: the number of steps, and where they are in memory.
_filter_reference = struct.pack("HP", len(_filter) // 8, ctypes.addressof(_filter))


def _seccomp(_: Confinement) -> None:
    if MACHINE is None:
        raise OSError("only for x86-64 and aarch64")
    _call(_libc.prctl, PR_SET_SECCOMP, 2, _filter_reference, 0, 0)


ALWAYS = {
    "separate processes": LayerState(True, "the tests never enter a process that runs, ran or forked the program"),
    "clean environment": LayerState(True, "the program sees none of your environment variables"),
    "fresh process": LayerState(True, "nothing stays for the next program, except that both can measure time"),
}
NURSERY_LAYERS = [
    Layer("user namespace", "lets an ordinary user create the next four", "they are missing too", _user_namespace),
    Layer("network namespace", "no network", "left to seccomp", partial(_unshare, CLONE_NEWNET)),
    Layer(
        "IPC namespace",
        "no System V shared memory or queues of others",
        "left to seccomp",
        partial(_unshare, CLONE_NEWIPC),
    ),
    Layer("UTS namespace", "a made-up host name", "it can read the host's name", _host_name),
    Layer("mount namespace", "the only files are Python's library", "left to Landlock", _mount_namespace),
    Layer("hidden memory", "nobody reads the memory of nursery and judge", "left to Landlock", hide_memory),
    Layer("no new privileges", "setuid programs give none", "left to seccomp", partial(_prctl, PR_SET_NO_NEW_PRIVS, 1)),
    Layer("file limits", f"{MAX_OPEN_FILES} descriptors, 0 bytes a file, no core dump", "no such limit", _limit_files),
][ROOT:]
PLAYER_LAYERS = [
    Layer("session", "its own process group, killed as a whole", "killed alone", lambda _: os.setsid()),
    Layer("cpu limit", "RLIMIT_CPU, in case the judge's clock fails", "left to the wall clock", _limit_cpu),
    Layer("memory limit", "RLIMIT_AS", "it can use all memory", _limit_memory),
    Layer("Landlock", "may read Python's library only, and write nothing", "file permissions count", _landlock),
    Layer("closed descriptors", "one socket; the standard streams are /dev/null", "a few more", _close_descriptors),
    *[Layer("unprivileged user", "a user who owns nothing", "it runs as root", _unprivileged_user)][:ROOT],
    Layer("process limit", "no children, no threads", "left to seccomp", _limit_processes),
    Layer("no capabilities", "none of root's rights", "the rights of the user who grades", _no_capabilities),
    # Must follow the change of user, which resets PR_SET_PDEATHSIG.
    Layer("ends with parent", "killed with its nursery", "ends with its socket", partial(_prctl, PR_SET_PDEATHSIG, 9)),
    Layer("seccomp", "system calls are refused except the few it needs", "the other layers remain", _seccomp),
]
