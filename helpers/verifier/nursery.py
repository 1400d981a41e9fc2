"""The nursery: a light process that never sees a test, and starts a fresh player for each program.

Started as a script in a new interpreter. A player forked from the judge would inherit the judge's memory, and a program
that walks its own frames would find the tests there. The program itself does not pass through the nursery either: the
player reads it from the judge, so that no program leaves a trace for the next.

    python nursery.py serve FD MODE             MODE "fork", or "spawn": a new interpreter per program
    python nursery.py play FD CPU MEMORY WALL   one player, as "spawn" starts it
    python nursery.py report                    which layers of isolation take
"""

import gc
import json
import os
import random
import socket
import struct
import subprocess
import sys
import types
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # the interpreter runs with -P
import isolation  # noqa: E402
import wire  # noqa: E402

del sys.path[0]  # nothing of ours on the path of a program under test

REQUEST = struct.Struct(">cdQd")  # START or END, and the Limits
REPLY = struct.Struct(">q")
START, END = b"S", b"E"
# What solutions import most: loaded once, so that no player has to.
WARM = "bisect collections copy datetime functools hashlib heapq itertools math operator re statistics string typing"


def serve(control: socket.socket, mode: str) -> None:
    """Start and end one player at a time, as the judge asks, until the judge is gone."""
    start = _fork_player if mode == "fork" else _spawn_player
    _rehearse()
    gc.collect()
    gc.freeze()  # keeps the collector of a player from touching, and so copying, what it shares with the nursery
    pid = 0
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 1)
        if not message:
            break
        operation, *limits = REQUEST.unpack(message)
        if operation == START:
            reply = pid = start(descriptors[0], isolation.Limits(*limits))
            os.close(descriptors[0])
        else:
            pid, reply = 0, _end_player(pid)
        control.sendall(REPLY.pack(reply))
    if pid:
        _end_player(pid)


def play(fd: int, limits: isolation.Limits) -> None:
    """Be a player: confine this process, then run one program and answer calls until the judge has had enough."""
    isolation.take_only_socket(fd)
    isolation.confine(limits)
    os.chdir("/")
    with socket.socket(fileno=isolation.PLAYER_FD) as sock:
        _answer_calls(wire.Channel(sock))


def _rehearse() -> None:
    """Do here, once, what each player does first: it then shares memory that is in place, a third of its time."""
    for name in WARM.split():
        __import__(name)
    program = "import math\nfrom typing import List\ndef f(xs: List[int]) -> int:\n    return sum(x for x in xs)\n"
    for _ in range(20):
        token, details = wire.loads(wire.dumps(("0", [1, 2.5, "a", (None,), {"b": True}])))
        _guard(_load, program, "f", token)
        _guard(sum, details[:2])
    del sys.modules["solution"]


def _fork_player(fd: int, limits: isolation.Limits) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        play(fd, limits)
    finally:
        os._exit(0)


def _spawn_player(fd: int, limits: isolation.Limits) -> int:
    command = [sys.executable, *isolation.PYTHON_FLAGS, os.path.abspath(__file__), "play", str(fd), *map(str, limits)]
    return subprocess.Popen(command, pass_fds=(fd,), start_new_session=True).pid


def _end_player(pid: int) -> int:
    """Kill the player and everything in its group; return how it ended, as os.waitpid does."""
    isolation.kill_player(pid)
    return os.waitpid(pid, 0)[1]


def _answer_calls(channel: wire.Channel) -> None:
    """Every answer repeats the token of its request: one that the program sent by itself shows as none."""
    function = None
    while True:
        token, request, *details = channel.receive()
        kind, answer = "value", None
        if request == "load":
            kind, answer = _guard(_load, *details)
            if kind == "value":
                function, answer = answer, None
        elif request == "call":
            kind, answer = _guard(function, *details[0], **details[1])
        _send(channel, token, kind, answer)


def _send(channel: wire.Channel, token: str, kind: str, answer: object) -> None:
    try:
        channel.send((token, kind, answer))
    except OSError:
        raise
    except wire.WireError as error:
        channel.send((token, "unfit", f"returned {error}"))
    except BaseException as error:  # out of memory, or a subclass whose own methods fail on the way
        stopped = isinstance(error, MemoryError)
        channel.send((token, "stopped", "MemoryError") if stopped else (token, "unfit", "returned a value that fails"))


def _guard(function: Callable, /, *args: object, **kwargs: object) -> tuple[str, object]:
    """Call untrusted code: ("value", v), ("raised", (type, text)), or ("stopped", type) for what ends a process."""
    try:
        return "value", function(*args, **kwargs)
    except BaseException as error:
        name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
        if isinstance(error, MemoryError) or not isinstance(error, Exception):
            return "stopped", name
        try:
            return "raised", (name, str.__str__(str(error))[:200])
        except BaseException:  # its own __str__ is untrusted too
            return "raised", (name, "")


def _load(program: str, entry_point: str, seed: str) -> object:
    """Run the program as a module, and return the function it should define."""
    random.seed(seed)
    module = types.ModuleType("solution")  # not __main__: a block under `if __name__ == "__main__"` does not run
    sys.modules["solution"] = module
    exec(compile(program, "<program>", "exec"), module.__dict__)
    function = module.__dict__.get(entry_point)
    if not callable(function):
        raise NameError(f"the program defines no function '{entry_point}'")
    return function


def main() -> None:
    match sys.argv[1:]:
        case ["serve", fd, mode]:
            serve(socket.socket(fileno=int(fd)), mode)
        case ["play", fd, cpu, memory, wall]:
            play(int(fd), isolation.Limits(float(cpu), int(memory), float(wall)))
        case ["report"]:
            print(json.dumps(isolation.confine(isolation.Limits(2.0, 1 << 29, 10.0))))


if __name__ == "__main__":
    main()
