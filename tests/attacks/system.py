"""Programs that try to reach the machine. Each is the body of a function that returns True if it succeeded.

Run as a script, this module grades them among good programs and things to harm: with all layers of isolation, with
none, and with one at a time. It prints as JSON how each ended.

    python -m tests.attacks.system
"""

import ctypes
import json
import os
import platform
import resource
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from string import Template
from typing import NamedTuple

from helpers.verifier import Submission, isolation_report
from helpers.verifier.pool import Pool, Setup, limits_for
from helpers.verifier.verdict import Job

ROOT = os.geteuid() == 0
TEST = "def check(candidate):\n    assert candidate() is True\n"
GOOD = "def f():\n    return True\n"
# If one of these layers is tried alone, it needs this other one too.
REQUIRED = {"Landlock": {"no new privileges"}, "seccomp": {"no new privileges"}}
REQUIRED |= {"process limit": {"unprivileged user"}} if ROOT else {"no capabilities": {"user namespace"}}
REQUIRED |= {} if ROOT else {f"{kind} namespace": {"user namespace"} for kind in ("network", "IPC", "UTS", "mount")}
# These keep a program away from other processes.
REACHING_OUT = ["mount namespace", "Landlock", "unprivileged user", "seccomp"]
# Landlock stops these from this version on, and the others since its first.
LANDLOCK_SINCE = {"empty a file": 3, "connect by TCP": 4, "listen by TCP": 4}
LANDLOCK_SINCE |= {"connect to a local service": 6, "kill a process of its user": 6, "stop its nursery": 6}
# These cannot be left out.
ALWAYS = {"separate processes", "clean environment", "fresh process", "standard library"}
SERVICES = [
    (socket.AF_INET, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_DGRAM),
    (socket.AF_UNIX, socket.SOCK_STREAM),
]


class Attack(NamedTuple):
    """The body of the function, and the layers that each stop it alone."""

    body: str
    stopped_by: str


# The number of this system call on this machine.
FUTEX = {"x86_64": 202}.get(platform.machine(), 98)
FILES = "mount namespace, Landlock"
WRITES = f"{FILES}, seccomp"
OWNERS = f"mount namespace, seccomp{', unprivileged user' if ROOT else ''}"
PROCESSES = "seccomp, unprivileged user" if ROOT else "seccomp"
# A library that each process has loaded. Players may read only those that modules ask for later, such as libssl.
LOADED = "/usr/lib/libSystem.B.dylib"
with suppress(OSError), open("/proc/self/maps") as maps:
    LOADED = next(line.split(maxsplit=5)[-1].strip() for line in maps if "/libc" in line and ".so" in line)
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"

ATTACKS = {
    "read a file": Attack("return open('$FILE').read() == 'text'", FILES),
    "read its user's secrets": Attack("return bool(open('$HERE/secret').read())", f"{FILES}, unprivileged user"),
    "list a folder": Attack("import os\nreturn 'secret' in os.listdir('$HERE')", FILES),
    "read what is installed next to Python's library": Attack(
        "import os\nplace = os.path.dirname(os.__file__)\n"
        "places = [os.walk(f'{place}/{name}-packages') for name in ('site', 'dist')]\n"
        "return any(open(f'{d}/{f}', 'rb').read(1) for walk in places for d, _, files in walk for f in files)",
        FILES,
    ),
    "read a library of the system": Attack(f"return bool(open({LOADED!r}, 'rb').read(1))", FILES),
    "create a file": Attack("open('$HERE/new', 'x')\nreturn True", WRITES),
    "write into a file": Attack(
        "import os\nreturn os.write(os.open('$FILE', os.O_WRONLY), b'x') == 1", f"{WRITES}, file limits"
    ),
    "empty a file": Attack("import os\nos.truncate('$FILE', 0)\nreturn True", WRITES),
    "delete a file": Attack("import os\nos.unlink('$FILE')\nreturn True", WRITES),
    "rename a file": Attack("import os\nos.rename('$FILE', '$FILE' + '2')\nreturn True", WRITES),
    "make a folder": Attack("import os\nos.mkdir('$HERE/folder')\nreturn True", WRITES),
    "make a symbolic link": Attack("import os\nos.symlink('/', '$HERE/link')\nreturn True", WRITES),
    "make a named pipe": Attack("import os\nos.mkfifo('$HERE/pipe')\nreturn True", WRITES),
    "change a file's mode": Attack("import os\nos.chmod('$FILE', 0o777)\nreturn True", OWNERS),
    "change a file's times": Attack("import os\nos.utime('$FILE', (0, 0))\nreturn True", OWNERS),
    "leave shared memory behind": Attack("open('/dev/shm/$NAME', 'x')\nreturn True", WRITES),
    "attach to shared memory": Attack(LIBC + "return libc.shmget($SHM, 0, 0) >= 0", "IPC namespace, seccomp"),
    "memory behind a descriptor": Attack("import os\nreturn os.memfd_create('x') > 0", "seccomp"),
    "use up memory": Attack("return len(bytes(1 << 30)) > 0", "memory limit"),
    "use up descriptors": Attack("import os\nreturn bool([os.dup(0) for _ in range(40)])", "file limits, seccomp"),
    "find other descriptors": Attack(
        "import os\nfor n in range(4, 32):\n  try:\n    return bool(os.fstat(n))\n  except OSError:\n    pass",
        "closed descriptors",
    ),
    "connect by TCP": Attack(
        "import socket\nsocket.create_connection(('127.0.0.1', $TCP), 5)\nreturn True",
        "network namespace, Landlock, seccomp",
    ),
    "listen by TCP": Attack(
        "import socket\nreturn socket.create_server(('127.0.0.1', 0)).fileno() > 0", "Landlock, seccomp"
    ),
    "send by UDP": Attack(
        "import socket as s\nreturn s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', $UDP)) == 1",
        "network namespace, seccomp",
    ),
    "connect to a local service": Attack(
        "import socket as s\ns.socket(s.AF_UNIX).connect('\\0$NAME')\nreturn True",
        "network namespace, Landlock, seccomp",
    ),
    "open a pair of sockets": Attack("import socket\nreturn bool(socket.socketpair())", "seccomp"),
    "fork": Attack(
        "import os\npid = os.fork()\nif not pid:\n    os._exit(0)\nreturn pid > 0", "process limit, seccomp"
    ),
    "start a thread": Attack(
        "import threading as t\nt.Thread(target=id).start()\nreturn True", "process limit, seccomp"
    ),
    "start a program": Attack(
        "import os\nreturn os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)[1] == 0",
        f"process limit, {WRITES}",
    ),
    "kill a process of its user": Attack("import os\nos.kill($PREY, 9)\nreturn True", f"{PROCESSES}, Landlock"),
    "stop its nursery": Attack("import os\nos.kill(os.getppid(), 0)\nreturn True", f"{PROCESSES}, Landlock"),
    "have the kernel signal another": Attack(
        "import fcntl, os\nfcntl.fcntl(3, fcntl.F_SETOWN, $HEIR)\nfcntl.fcntl(3, 10, 9)\n"
        "fcntl.fcntl(3, fcntl.F_SETFL, os.O_ASYNC | os.O_RDWR)\nos.write(3, b'')\nreturn True",
        "seccomp",
    ),
    "trace another process": Attack(
        LIBC + "return libc.ptrace(0x4206, $PID, None, None) == 0", f"{PROCESSES}, Landlock, user namespace"
    ),
    "open another process's memory": Attack(
        "return bool(open('/proc/$PID/mem', 'rb'))", f"{FILES}, user namespace, unprivileged user"
    ),
    "open its nursery's memory": Attack(
        "import os\nreturn bool(open(f'/proc/{os.getppid()}/mem', 'rb'))",
        f"{FILES}, {'unprivileged user' if ROOT else 'hidden memory'}",
    ),
    "limit another process": Attack(
        "import resource as r\nreturn bool(r.prlimit($PID, r.RLIMIT_CORE, (0, 0)))", PROCESSES
    ),
    "slow another process down": Attack("import os\nos.setpriority(os.PRIO_PROCESS, $PID, 9)\nreturn True", PROCESSES),
    "make namespaces of its own": Attack(LIBC + "return libc.unshare(0x10000000) == 0", "seccomp"),
    "gain rights by a setuid program": Attack(
        LIBC + "return libc.prctl(39, 0, 0, 0, 0) == 0", "no new privileges, seccomp"
    ),
    "be told of its file system": Attack(LIBC + "return libc.inotify_init() > 0", "seccomp"),
    "set an alarm": Attack("import signal\nsignal.setitimer(signal.ITIMER_REAL, 1000)\nreturn True", "seccomp"),
    "read the host's name": Attack("import os\nreturn os.uname().nodename == '$HOST'", "UTS namespace"),
    "read the processor clock of another process": Attack(
        "import time\nreturn time.clock_gettime((~$PID << 3) | 2) >= 0", "seccomp"
    ),
    "ask for the cores of another process": Attack("import os\nreturn bool(os.sched_getaffinity($PID))", "seccomp"),
    "wake whoever waits at a shared page": Attack(
        LIBC + "word = ctypes.c_uint32()\nreturn libc.syscall($FUTEX, ctypes.byref(word), 1, 1) == 0", "seccomp"
    ),
    "lock memory": Attack(LIBC + "return libc.mlockall(2) == 0", "seccomp"),
    "keep keys in the kernel": Attack(LIBC + "return libc.syscall(250, 0, -3, 1) > 0", "seccomp"),
}
ROOTS_OWN = {
    "be root again": Attack("import os\nos.setuid(0)\nreturn os.getuid() == 0", PROCESSES),
    "read what only root may": Attack("return bool(open('$HERE/foreign').read())", f"{FILES}, no capabilities"),
    "change the root folder": Attack("import os\nos.chroot('/')\nreturn True", f"{PROCESSES}, no capabilities"),
}
# Without its user namespace, an ordinary user has no rights to give up.
USERS_OWN = {
    "have rights over its namespaces": Attack(
        LIBC + "held = (ctypes.c_uint32 * 6)()\n"
        "libc.capget(ctypes.byref(ctypes.c_uint64(0x20080522)), held)\nreturn any(held)",
        "no capabilities, seccomp",
    )
}
ATTACKS |= ROOTS_OWN if ROOT else USERS_OWN


def can_give_files_away() -> bool:
    """Whether root may do this here. Not every container lets it."""
    with tempfile.NamedTemporaryFile() as file, suppress(OSError):
        os.chown(file.name, 12345, 12345)
        return True
    return False


if ROOT and not can_give_files_away():
    del ATTACKS["read what only root may"]


class Scene:
    """The targets of the attacks: a folder, a process, three services and a piece of shared memory."""

    def __init__(self, stack: ExitStack) -> None:
        self.here = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, self.here)
        self.here.chmod(0o777)
        for name in ("secret", "foreign"):
            (self.here / name).write_text("text")
            (self.here / name).chmod(0o600)
        with suppress(OSError):
            os.chown(self.here / "foreign", 12345, 12345)
        self.name = self.here.name
        stack.callback(Path("/dev/shm", self.name).unlink, missing_ok=True)
        self.services = [stack.enter_context(socket.socket(*kind)) for kind in SERVICES]
        for service, address in zip(self.services, [("127.0.0.1", 0), ("127.0.0.1", 0), f"\0{self.name}"], strict=True):
            service.bind(address)
            service.setblocking(False)
        self.services[0].listen()
        self.services[2].listen()
        self.processes = [stack.enter_context(subprocess.Popen(["sleep", "1000"])) for _ in range(3)]
        for process in self.processes:
            stack.callback(process.kill)
        self.shared = ctypes.CDLL(None).shmget(os.getpid(), 100, 0o1666)
        stack.callback(ctypes.CDLL(None).shmctl, self.shared, 0, None)

    def fill_in(self, body: str) -> str:
        """Return the body of an attack with the names and numbers of these targets."""
        tcp, udp = (service.getsockname()[1] for service in self.services[:2])
        pid, prey, heir = (process.pid for process in self.processes)
        file = self.here / f"file{len([*self.here.iterdir()])}"
        file.write_text("text")
        file.chmod(0o666)
        known = {"HERE": self.here, "FILE": file, "NAME": self.name, "PID": pid, "PREY": prey, "HEIR": heir}
        known |= {"TCP": tcp, "UDP": udp, "SHM": os.getpid(), "HOST": os.uname().nodename, "FUTEX": FUTEX}
        return Template(body).substitute(known)

    def state(self) -> object:
        """Return everything that an attack might change."""
        files = {path.name: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in self.here.iterdir()}
        texts = {path.name: path.read_text() for path in self.here.iterdir() if path.is_file()}
        calls = [bool(select.select([service], [], [], 0)[0]) for service in self.services]
        alive = [process.poll() for process in self.processes]
        pid = self.processes[0].pid
        limits = os.getpriority(os.PRIO_PROCESS, pid), resource.prlimit(pid, resource.RLIMIT_CORE)
        return files, texts, calls, alive, limits, Path("/dev/shm", self.name).exists()


def grade(names: Collection[str], omit: Collection[str]) -> tuple[dict[str, str], bool, bool]:
    """Grade these attacks without some layers.

    Returns how each ended, whether the good programs passed, and whether anything was harmed.
    """
    with ExitStack() as stack:
        scene, pool = Scene(stack), Pool()
        stack.callback(pool.close)
        programs = []
        for name in names:
            body = scene.fill_in(ATTACKS[name].body)
            programs += [f"def f():\n{textwrap.indent(body, '    ')}\n", f"{GOOD}# {name}"]
        before = scene.state()
        jobs = [Job(Submission(program, "", TEST, "f"), limits_for()) for program in programs]
        outcomes = [outcome for outcome, *_ in pool.grade(jobs, 2, Setup(omit=tuple(omit)))]
        harmed = scene.state() != before
    return dict(zip(names, outcomes[::2], strict=True)), {*outcomes[1::2]} <= {"passed"}, harmed


def in_the_open(name: str) -> bool:
    """Return whether this user may do here what the attack does, without any grader."""
    with ExitStack() as stack:
        body = Scene(stack).fill_in(ATTACKS[name].body)
        program = f"def f():\n{textwrap.indent(body, '    ')}\nraise SystemExit(f() is not True)"
        return subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, timeout=60).returncode == 0


def stopped_here_by(name: str, layers: Collection[str]) -> set[str]:
    """Return the layers of which each stops the attack alone, with the Landlock that this kernel has."""
    stopping = {*ATTACKS[name].stopped_by.split(", ")} & {*layers}
    version = ctypes.CDLL(None).syscall(444, None, 0, 1)
    return stopping - {"Landlock"} if version < LANDLOCK_SINCE.get(name, 1) else stopping


def main() -> None:
    """Print for each setup of layers what `grade` returns.

    With all layers, only those attacks run that some layer here stops.
    """
    report = isolation_report()
    every = [name for name in report if name not in ALWAYS]
    layers = [name for name in every if report[name].on]
    stopped_by = {name: stopped_here_by(name, layers) for name in ATTACKS}
    results = {"all": grade([name for name in ATTACKS if stopped_by[name]], ()), "none": grade(ATTACKS, every)}
    if not ROOT:
        results["none"][0].update(grade(USERS_OWN, [layer for layer in every if layer != "user namespace"])[0])
    for layer in layers:
        if names := [name for name in ATTACKS if layer in stopped_by[name]]:
            kept = {layer} | REQUIRED.get(layer, set())
            results[layer] = grade(names, [other for other in every if other not in kept])
    impossible = [name for name, outcome in results["none"][0].items() if outcome != "passed" and not in_the_open(name)]
    print(json.dumps({"layers": layers, "results": results, "impossible": impossible}))


if __name__ == "__main__":
    main()
