"""The nursery: a light process that never sees a test, and starts a fresh player for each program.

Started as a script in a new interpreter. A player forked from the judge would inherit the judge's memory, and a program
that walks its own frames would find the tests there. The program itself does not pass through the nursery either: the
player reads it from the judge, so that no program leaves a trace for the next.

    python nursery.py serve SETUP                   start players as the judge, at the other end of stdin, asks
    python nursery.py play SETUP CPU MEMORY WALL    be one player, as mode "spawn" starts it, the judge at stdin
    python nursery.py report SETUP                  print which layers of isolation take

SETUP is JSON: [mode, modules to have ready beside Python's own, layers to leave out (for tests)].
"""

import functools
import gc
import importlib
import json
import os
import socket
import sys
import types
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple
from warnings import catch_warnings

_register, os.register_at_fork = os.register_at_fork, lambda **_: None  # random would seed itself anew in each player
import random  # noqa: E402

os.register_at_fork = _register
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # the interpreter runs with -P
import isolation  # noqa: E402
import wire  # noqa: E402
from verdict import LayerState, Limits  # noqa: E402

del sys.path[0]  # nothing of ours on the path of a program under test

# What solutions import most is loaded once, so that no player has to; the others must come when they are asked for.
WARM = "bisect collections copy functools hashlib heapq itertools math operator re string typing"
NEEDED = (
    "abc array ast base64 binascii calendar cmath contextlib csv dataclasses datetime decimal difflib enum fractions "
    "inspect io json locale numbers pprint queue random statistics struct textwrap time timeit traceback types "
    "unicodedata warnings zlib"
)
MAX_TEXT = 10_000  # characters of an exception


def prepare(cage: isolation.Cage, modules: Iterable[str]) -> None:
    """Load modules, find out which layers a player takes, and make sure that it can import Python's library then.

    What it cannot import is loaded beforehand. Raises ImportError where that does not help either.
    """
    for name in WARM.split():
        importlib.import_module(name)
    _load_whole(modules)
    sys.path[:] = [isolation.STDLIB, f"{isolation.STDLIB}/lib-dynload"]
    _rehearse()
    detail = "imported as programs ask for it"
    if missing := [name for name in _try_player(cage) if _import(name)]:  # what is not built here does not count
        detail = f"loaded beforehand where a program may not read it: {' '.join(missing)}"
        if missing := set(missing).intersection(_try_player(cage)):
            raise ImportError(f"A confined program cannot import {' '.join(sorted(missing))}.")
    cage.states["standard library"] = LayerState(True, detail)


class Player(NamedTuple):
    """A process that waits for a program, with these limits on it, and the judge's end of the socket to it."""

    pid: int
    sock: socket.socket
    limits: Limits


def serve(control: socket.socket, start: Callable[[int, Limits], int]) -> None:
    """Hand over and end one player at a time, as the judge asks, until the judge is gone.

    The next player is started while the judge is busy with the present one.
    """
    pid, ready = 0, None
    while message := control.recv(wire.REQUEST.size, socket.MSG_WAITALL):
        operation, *limits = wire.REQUEST.unpack(message)
        if operation != wire.START:
            status, pid = _end_player(pid), 0
            if operation == wire.END:
                control.sendall(wire.REPLY.pack(status))
            continue
        if ready and os.waitpid(ready.pid, os.WNOHANG)[0]:  # killed, by a machine short of memory, say
            ready = None
        if ready and ready.limits != Limits(*limits):
            ready = _end_player(ready.pid) and None
        pid, sock, limits = ready or _start_player(start, Limits(*limits))
        with sock:
            socket.send_fds(control, [wire.REPLY.pack(pid)], [sock.fileno()])
        ready = _start_player(start, limits)
    for left in filter(None, (pid, ready and ready.pid)):
        _end_player(left)


def _start_player(start: Callable[[int, Limits], int], limits: Limits) -> Player:
    judges, theirs = socket.socketpair()
    with theirs:
        return Player(start(theirs.fileno(), limits), judges, limits)


def _rehearse() -> None:
    """Do here, once, what each player does first: it then shares memory that is in place, a third of its time."""
    ours, theirs = socket.socketpair()
    if not os.fork():  # in the judge's place
        ours.close()
        channel = wire.Channel(theirs.fileno())
        program = "import math\nfrom typing import List\ndef f(xs: List[int]) -> int:\n    return sum(x for x in xs)\n"
        for request in [("load", program, "f", "0"), ("call", ([1, 2],), {}), ("call", ("a",), {}), ("end",)] * 20:
            channel.send(("0", *request))
            channel.receive()
        os._exit(0)
    theirs.close()
    with ours, suppress(EOFError):
        _answer_calls(ours.fileno())
    os.wait()
    del sys.modules["solution"]


def _try_player(cage: isolation.Cage) -> list[str]:
    """In a process of its own, put every layer on; keep which ones took, and return what cannot be imported then."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        isolation.take_only(theirs.fileno())
        cage.enter()
        cage.try_on()
        missing = [name for name in NEEDED.split() if not _import(name)]
        wire.Channel(isolation.ONLY_FD).send((cage.states, missing))
        os._exit(0)
    theirs.close()
    with ours:
        states, missing = wire.Channel(ours.fileno()).receive()
    os.waitpid(pid, 0)
    cage.keep({name: LayerState(*state) for name, state in states.items()})
    return missing


def _load_whole(modules: Iterable[str]) -> None:
    """Load modules, and the parts that they load when first asked for: a program may not read them from the disk."""
    for name in modules:
        module = importlib.import_module(name)
        for part in dir(module):
            with suppress(Exception), catch_warnings(action="ignore"):
                getattr(module, part)


def _import(name: str) -> bool:
    try:
        return bool(importlib.import_module(name))
    except (ImportError, OSError):
        return False


def _fork_player(cage: isolation.Cage, fd: int, limits: Limits) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        isolation.take_only(fd)
        cage.confine(limits)
    except BaseException:
        os.kill(os.getpid(), wire.NOT_CONFINED)
    try:
        _answer_calls(isolation.ONLY_FD)
    finally:
        os._exit(0)


def _spawn_player(fd: int, limits: Limits) -> int:
    import subprocess  # not in a nursery that forks: the less it holds, the faster

    command = [*sys.orig_argv[:-2], "play", sys.argv[2], *map(str, limits)]  # as the nursery was started
    return subprocess.Popen(command, stdin=fd).pid


def _end_player(pid: int) -> int:
    """Kill the player and everything in its group; return how it ended, as os.waitpid does."""
    isolation.kill_player(pid)
    return os.waitpid(pid, 0)[1]


def _answer_calls(fd: int) -> None:
    """Load a program and call its function, as asked, and answer with the token of the request.

    An answer brings the arguments that the function changed along.
    """
    channel, function = wire.Channel(fd), None
    while True:
        token, request, *details = channel.receive()
        kind, answer, held = "value", None, {}
        if request == "load":
            kind, answer = _guard(_load, *details)
            if kind == "value":
                function, answer = answer, None
        elif request == "call":
            given = enumerate([*details[0], *details[1].values()])
            held = {n: (value, wire.dumps(value)) for n, value in given if isinstance(value, list | dict | set | tuple)}
            kind, answer = _guard(function, *details[0], **details[1])
        try:
            changed = {n: value for n, (value, before) in held.items() if wire.dumps(value) != before}
            channel.send((token, kind, answer, changed))
        except OSError:
            raise
        except MemoryError:
            channel.send((token, "stopped", "MemoryError", {}))
        except BaseException as error:  # also of a subclass whose own methods fail on the way
            reason = str(error) if isinstance(error, wire.WireError) else "a value that fails"
            channel.send((token, "unfit", f"returned {reason}", {}))


def _guard(function: Callable, /, *args: object, **kwargs: object) -> tuple[str, object]:
    """Call untrusted code: ("value", v), ("raised", (type, text)), or ("stopped", type) for what ends a process."""
    try:
        return "value", function(*args, **kwargs)
    except BaseException as error:
        name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
        if isinstance(error, MemoryError) or not isinstance(error, Exception):
            return "stopped", name
        try:
            return "raised", (name, str.__str__(str(error))[:MAX_TEXT])
        except BaseException:  # its own __str__ is untrusted too
            return "raised", (name, "")


def _load(program: str, entry_point: str, seed: str) -> object:
    """Run the program as a module, and return the function it should define."""
    random.seed(seed)
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed(int(seed[:8], 16))
    module = types.ModuleType("solution")  # not __main__: a block under `if __name__ == "__main__"` does not run
    sys.modules["solution"] = module
    exec(compile(program, "<program>", "exec"), module.__dict__)
    function = module.__dict__.get(entry_point)
    if not callable(function):
        raise NameError(f"the program defines no function '{entry_point}'")
    return function


def main() -> None:
    command, setup, *limits = sys.argv[1:]
    mode, modules, omit = json.loads(setup)
    cage = isolation.Cage(omit)
    if command == "report":
        prepare(cage, modules)
        print(json.dumps({**isolation.ALWAYS, **cage.states}))
        return
    isolation.take_only(0)
    if command == "play":
        for name in NEEDED.split():
            _import(name)
        _load_whole(modules)
        cage.limits = Limits(float(limits[0]), int(limits[1]), float(limits[2]))
        cage.enter()
        cage.try_on()
        _answer_calls(isolation.ONLY_FD)
    start: Callable = _spawn_player
    if mode == "fork":
        prepare(cage, modules)
        cage.enter()
        start = functools.partial(_fork_player, cage)
        gc.collect()
        gc.freeze()  # keeps the collector of a player from touching, and so copying, what it shares with the nursery
    serve(socket.socket(fileno=isolation.ONLY_FD), start)


if __name__ == "__main__":
    main()
