"""The nursery: a light process that never sees a test, and starts a fresh player for each program.

The pool starts it as a script in a new interpreter. A player forked from the judge would inherit the judge's memory,
and a program that walks its own frames would find the tests there. Not even the program passes through the nursery: the
player reads it from the judge, so the next player cannot find it either.

    python nursery.py serve SETUP     start players for the judge at the other end of stdin
    python nursery.py report SETUP    print which layers of isolation work

SETUP is JSON: [modules to allow next to Python's own, layers to leave out (for tests)].
"""

import builtins
import gc
import importlib
import json
import os
import socket
import sys
import time
import types
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple
from warnings import catch_warnings

# `random` registers a function that seeds it again after each fork. A player is seeded when it loads its program, so
# keep `random` from registering: that saves every player the time.
_register, os.register_at_fork = os.register_at_fork, lambda **_: None
import random  # noqa: E402

os.register_at_fork = _register
# The interpreter runs with -P, so this folder is not on its path.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import isolation  # noqa: E402
import values  # noqa: E402
import wire  # noqa: E402
from verdict import LayerState, Limits  # noqa: E402

# Nothing of ours stays on the path of a program under test.
del sys.path[0]

# Programs import these most often, so they are loaded once, here. Every C library makes each fork slower, so modules
# that few programs need, such as hashlib, are not among them.
WARM = "bisect collections copy functools heapq itertools math operator re string typing"
# Programs must be able to import these when they need them.
NEEDED = (
    "abc array ast base64 binascii bz2 calendar cmath contextlib csv dataclasses datetime decimal difflib enum "
    "fractions hashlib inspect io json locale lzma numbers pprint queue random sqlite3 ssl statistics struct textwrap "
    "time timeit traceback types unicodedata warnings zlib zoneinfo"
)
# At least one of these must work for a program to count as confined.
WALLS = ("seccomp", "Landlock", "mount namespace")
# How many items of an iterator the tests fetch at a time.
MORE_ITEMS = 10_000
# Seconds to wait for a player that closed its socket to end by itself.
EXIT_SECONDS = 0.5


def prepare(confinement: isolation.Confinement, modules: Iterable[str]) -> None:
    """Load modules, find out which layers work, and make sure that a confined player can import Python's library.

    What it cannot import is loaded here in advance. Raises ImportError if that does not help either.
    """
    for name in WARM.split():
        importlib.import_module(name)
    _load_whole(modules)
    sys.path[:] = [isolation.STDLIB, f"{isolation.STDLIB}/lib-dynload"]
    confinement.libraries = _in_child(_shared_libraries)
    _warm_up()
    detail = "imported as programs ask for it"
    # Skip what this Python was built without.
    if missing := [name for name in _try_player(confinement) if _import(name)]:
        detail = f"loaded in advance, because a program cannot read it: {' '.join(missing)}"
        if missing := set(missing).intersection(_try_player(confinement)):
            raise ImportError(f"A confined program cannot import {' '.join(sorted(missing))}.")
    confinement.states["standard library"] = LayerState(True, detail)


class Player(NamedTuple):
    """A process that waits for a program, the judge's end of the socket to it, and its limits."""

    pid: int
    sock: socket.socket
    limits: Limits


def serve(control: socket.socket, confinement: isolation.Confinement) -> None:
    """Hand over and end one player at a time, as the judge asks, until the judge is gone.

    While the judge is busy with one player, start the next.
    """
    confined = any(confinement.states[name].on for name in WALLS)
    pid, ready = 0, None
    while message := control.recv(wire.REQUEST.size, socket.MSG_WAITALL):
        operation, *limits = wire.REQUEST.unpack(message)
        if operation == wire.START:
            limits = Limits(*limits)
            # A machine that is short of memory, for example, may have killed the player that waits.
            if ready and os.waitpid(ready.pid, os.WNOHANG)[0]:
                ready = None
            if ready and ready.limits != limits:
                _end_player(ready.pid)
                ready = None
            pid, sock, _ = ready or _start_player(confinement, limits)
            with sock:
                socket.send_fds(control, [wire.REPLY.pack(pid, 0.0, confined)], [sock.fileno()])
            ready = _start_player(confinement, limits)
        else:
            status, used = _end_player(pid, patience=EXIT_SECONDS if operation == wire.END else 0.0)
            pid = 0
            if operation == wire.END:
                control.sendall(wire.REPLY.pack(status, used, confined))
    for left in filter(None, (pid, ready and ready.pid)):
        _end_player(left)


def _start_player(confinement: isolation.Confinement, limits: Limits) -> Player:
    judges_end, players_end = socket.socketpair()
    pid = os.fork()
    if pid:
        players_end.close()
        return Player(pid, judges_end, limits)
    try:
        isolation.keep_only_socket(players_end.fileno())
        confinement.confine_player(limits)
    except BaseException:
        os.kill(os.getpid(), wire.NOT_CONFINED)
    try:
        answer_requests(isolation.SOCKET_FD)
    finally:
        os._exit(0)


def _end_player(pid: int, patience: float = 0.0) -> tuple[int, float]:
    """Kill the player and everything in its group. Returns how it ended by itself, and its processor time.

    A socket closes a moment before its process is gone, so wait that long to see what ended it. The status is 0 if it
    had not ended by itself.
    """
    deadline = time.monotonic() + patience
    while not (over := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and time.monotonic() < deadline:
        time.sleep(0.002)
    isolation.kill_player(pid)
    _, status, usage = os.wait4(pid, 0)
    return status if over else 0, usage.ru_utime + usage.ru_stime


def _warm_up() -> None:
    """Exchange a few messages as a player does, so that players share the pages it touches.

    This saves a third of a player's time.
    """
    ours, theirs = socket.socketpair()
    # The child stands in for the judge.
    if not os.fork():
        ours.close()
        channel = wire.Channel(theirs.fileno())
        program = "import math\nfrom typing import List\ndef f(xs: List[int]) -> int:\n    return sum(x for x in xs)\n"
        for request in [("load", program, "f", "0", []), ("call", ([1, 2],), {}), ("call", ("a",), {}), ("end",)] * 20:
            channel.send(values.dumps(("0", *request)))
            channel.receive()
        os._exit(0)
    theirs.close()
    with ours, suppress(EOFError):
        answer_requests(ours.fileno())
    os.wait()
    del sys.modules["solution"]


def _in_child(function: Callable[[], object]) -> Any:
    """Run a function in a child and return its result. Nothing that it loads or applies stays here.

    What the nursery itself holds makes every fork slower.
    """
    ours, theirs = socket.socketpair()
    if not os.fork():
        isolation.keep_only_socket(theirs.fileno())
        wire.Channel(isolation.SOCKET_FD).send(values.dumps(function()))
        os._exit(0)
    theirs.close()
    with ours:
        result = values.loads(wire.Channel(ours.fileno()).receive())
    os.wait()
    return result


def _try_player(confinement: isolation.Confinement) -> list[str]:
    """Apply every layer to a trial player, keep the ones that work, and return what it then cannot import."""

    def confine_and_import() -> tuple:
        confinement.confine_nursery()
        confinement.try_player_layers()
        return confinement.states, [name for name in NEEDED.split() if not _import(name)]

    states, missing = _in_child(confine_and_import)
    confinement.use_working({name: LayerState(*state) for name, state in states.items()})
    return missing


def _load_whole(modules: Iterable[str]) -> None:
    """Load modules and the parts that they load lazily: a program cannot read those from the disk."""
    for name in modules:
        module = importlib.import_module(name)
        for part in dir(module):
            with suppress(Exception), catch_warnings(action="ignore"):
                getattr(module, part)


def _shared_libraries() -> list[str]:
    """Return the shared libraries outside STDLIB that NEEDED modules are linked with, such as libssl.

    Players may read these files. If the nursery loaded them instead, every fork would take longer.
    """
    before = _mapped_libraries()
    for name in NEEDED.split():
        _import(name)
    return [path for path in _mapped_libraries() if path not in before and isolation.STDLIB not in path]


def _mapped_libraries() -> list[str]:
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        return list(dict.fromkeys(line.split(maxsplit=5)[-1].strip() for line in file if ".so" in line))
    return []


def _import(name: str) -> bool:
    try:
        return bool(importlib.import_module(name))
    except (ImportError, OSError):
        return False


def answer_requests(fd: int) -> None:
    """Be a player: load a program and call its function as asked. Each answer repeats the token of its request.

    An answer also carries the arguments that the function changed.
    """
    codec = values.Codec(imports=True)
    channel, function, namespace = wire.Channel(fd), None, {}
    while True:
        token, request, *details = codec.loads(channel.receive())
        kind, answer, held, codec.given = "value", None, {}, []
        if request == "load":
            *program, names = details
            kind, answer = _guard(_load, *program)
            if kind == "value":
                function, namespace = answer
                answer, codec.iterators = None, []
                codec.use_classes({name: namespace[name] for name in names if isinstance(namespace.get(name), type)})
        elif request == "call":
            codec.given = [*details[0], *details[1].values()]
            held = {n: (value, _snapshot(codec, value)) for n, value in enumerate(codec.given)}
            kind, answer = _guard(function, *details[0], **details[1])
        elif request == "more":
            kind, answer = _guard(codec.take, codec.iterators[details[0]], MORE_ITEMS)
        try:
            now = {n: (before, _snapshot(codec, value)) for n, (value, before) in held.items() if before}
            changed = {n: after for n, (before, after) in now.items() if after and after != before}
            message = codec.dumps((token, kind, answer, changed))
        # An object of the program's own classes can raise anything while it is encoded.
        except BaseException as error:
            kind, answer = _caught(error)
            if kind == "raised":
                reason = str(error) if isinstance(error, values.CrossingError) else "a value that fails"
                kind, answer = "unfit", f"returned {reason}"
            message = codec.dumps((token, kind, answer, {}))
        channel.send(message)


def _snapshot(codec: values.Codec, value: object) -> bytes | None:
    """Encode an argument that a function can change. None for others, and for what can be read only once."""
    if value is None or isinstance(value, (int, float, complex, str, bytes)):
        return None
    try:
        return codec.dumps(value, once=True)
    except values.CrossingError:
        return None


def _guard(function: Callable, /, *args: object, **kwargs: object) -> tuple[str, object]:
    """Call untrusted code. Returns ("value", v), ("raised", exception), or ("stopped", type) for a process's end."""
    try:
        return "value", function(*args, **kwargs)
    except BaseException as error:
        return _caught(error)


def _caught(error: BaseException) -> tuple[str, object]:
    if isinstance(error, Exception) and not isinstance(error, MemoryError):
        return "raised", error
    return "stopped", next(kind.__name__ for kind in type(error).__mro__ if vars(builtins).get(kind.__name__) is kind)


def _load(program: str, entry_point: str, seed: str) -> tuple[object, dict]:
    """Run the program as a module, and return the function it should define, and the module's names."""
    random.seed(seed)
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed(int(seed[:8], 16))
    # The module is not called __main__, so a block under `if __name__ == "__main__"` does not run.
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    exec(compile(program, "<program>", "exec"), module.__dict__)
    function = module.__dict__.get(entry_point)
    if not callable(function):
        raise NameError(f"the program defines no function '{entry_point}'")
    return function, module.__dict__


def main() -> None:
    """Serve a judge, or print the report."""
    command, setup = sys.argv[1:]
    modules, omit = json.loads(setup)
    isolation.expect_faults()
    confinement = isolation.Confinement(omit)
    if command == "report":
        prepare(confinement, modules)
        print(json.dumps({**isolation.ALWAYS, **confinement.states}))
        return
    isolation.keep_only_socket(0)
    prepare(confinement, modules)
    _in_child(confinement.read_files)
    confinement.confine_nursery()
    # The collector of a player must not touch what it shares with the nursery: each page it touches is copied.
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=isolation.SOCKET_FD), confinement)


if __name__ == "__main__":
    main()
