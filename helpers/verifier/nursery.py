"""The nursery: a light process that never sees a test, and forks a fresh player for each program.

Started as a script in a new interpreter. A player forked from the judge would inherit the judge's memory, and a program
that walks its own frames would find the tests there. The program itself does not pass through the nursery either: the
player reads it from the judge, so that no program leaves a trace for the next.

    python nursery.py serve FD MODE      MODE "fork", or "spawn": a new interpreter per program
    python nursery.py play FD CPU MEMORY
    python nursery.py report
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

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # the interpreter runs with -P
import isolation  # noqa: E402
import wire  # noqa: E402

del sys.path[0]  # nothing of ours on the path of a program under test

REQUEST = struct.Struct(">cdQ")
REPLY = struct.Struct(">q")
START, END = b"S", b"E"
# What solutions import most. Loaded once here, so that no player has to.
WARM = "bisect collections copy datetime decimal fractions functools hashlib heapq itertools math operator re"


def serve(control: socket.socket, mode: str) -> None:
    """Start and end one player at a time, as the judge asks, until the judge is gone."""
    start = _fork_player if mode == "fork" else _spawn_player
    for name in f"{WARM} statistics string typing".split():
        __import__(name)
    gc.collect()
    gc.freeze()  # keeps the collector of a player from touching, and so copying, what it shares with the nursery
    pid = 0
    try:
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 1)
            if not message:
                return
            operation, cpu, memory = REQUEST.unpack(message)
            if operation == START:
                pid = start(descriptors[0], isolation.Limits(cpu, memory))
                os.close(descriptors[0])
                control.sendall(REPLY.pack(pid))
            else:
                pid, ended = 0, pid
                control.sendall(REPLY.pack(_end_player(ended)))
    finally:
        if pid:
            _end_player(pid)


def play(fd: int, limits: isolation.Limits) -> None:
    """Be a player: confine this process, then run one program and answer calls until the judge has had enough."""
    isolation.take_only_socket(fd)
    isolation.confine(limits)
    os.chdir("/")
    with socket.socket(fileno=isolation.PLAYER_FD) as sock:
        _answer_calls(wire.Channel(sock))


def _fork_player(fd: int, limits: isolation.Limits) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        play(fd, limits)
    finally:
        os._exit(0)


def _spawn_player(fd: int, limits: isolation.Limits) -> int:
    flags = [*sys.orig_argv[1 : sys.orig_argv.index(sys.argv[0])], os.path.abspath(__file__)]
    arguments = ["play", str(fd), repr(limits.cpu), str(limits.memory)]
    command = [sys.executable, *flags, *arguments]
    return subprocess.Popen(command, pass_fds=(fd,), start_new_session=True).pid


def _end_player(pid: int) -> int:
    """Kill the player and everything in its group; return how it ended, as os.waitpid does."""
    isolation.kill_player(pid)
    _, status = os.waitpid(pid, 0)
    return status


def _answer_calls(channel: wire.Channel) -> None:
    """Every answer repeats the token of its request: one that the program sent by itself shows as none."""
    function = None
    while True:
        token, request, *details = channel.receive()
        if request == "load":
            kind, answer = _guard(_load, *details)
            function = answer if kind == "value" else None
            reply = (token, kind, None) if kind == "value" else (token, kind, answer)
        elif request == "call":
            reply = (token, *_guard(function, *details[0], **details[1]))
        else:
            reply = (token, "value", None)
        _send(channel, reply)


def _send(channel: wire.Channel, reply: tuple) -> None:
    try:
        channel.send(reply)
    except (OSError, EOFError):
        raise
    except MemoryError:
        channel.send((reply[0], "stopped", ("MemoryError", "")))
    except BaseException as error:  # a value that cannot cross, or one whose own methods fail on the way
        text = f"returned {error}" if isinstance(error, wire.WireError) else f"returned a value that raises {error!r}"
        channel.send((reply[0], "unfit", text[:200]))


def _guard(function, /, *args, **kwargs) -> tuple[str, object]:
    """Call untrusted code; ("value", v), ("raised", (type, text)) or, for what should end a process, ("stopped", …)."""
    try:
        return "value", function(*args, **kwargs)
    except BaseException as error:
        ends_process = isinstance(error, MemoryError) or not isinstance(error, Exception)
        return "stopped" if ends_process else "raised", _describe(error)


def _describe(error: BaseException) -> tuple[str, str]:
    """Name the nearest built-in type, and the message, of an exception that untrusted code raised."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
    try:
        text = str.__str__(str(error))
    except BaseException:  # its own __str__ is untrusted too
        text = ""
    return name, text[:200]


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


def report() -> None:
    """Print which layers take in a process like a player's."""
    states = isolation.confine(isolation.Limits(2.0, 1 << 29))
    print(json.dumps({name: list(state) for name, state in states.items()}))


def main() -> None:
    match sys.argv[1:]:
        case ["serve", fd, mode]:
            serve(socket.socket(fileno=int(fd)), mode)
        case ["play", fd, cpu, memory]:
            play(int(fd), isolation.Limits(float(cpu), int(memory)))
        case ["report"]:
            report()


if __name__ == "__main__":
    main()
