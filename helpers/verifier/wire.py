"""Plain data over a socket: the only thing that crosses between the judge and an untrusted program.

A message is a four-byte length and JSON. JSON lacks tuples, sets, bytes, huge integers and others, so these travel as
an object with one key that names the type: `(1, 2)` is `{"tuple": [1, 2]}`. Nothing in a message can name code, a
class or a memory address, so reading one cannot run anything (`pickle` and `marshal` give no such promise).
"""

import json
import os
import re
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

# Between judge and nursery
# One of the three below, and the Limits.
REQUEST = struct.Struct(">cdQd")
# To START: the player's process id, and one end of a socket to it. To END: its status as os.waitpid gives it, and the
# seconds of processor time that it used. Then whether programs are confined here.
REPLY = struct.Struct(">qd?")
# DROP ends a player as END does, without a reply.
START, END, DROP = b"S", b"E", b"D"
# A player kills itself with this signal if a layer fails on it. A confined program can send no signal.
NOT_CONFINED = signal.SIGUSR1
# Between judge and player
MAX_BYTES = 4 << 20
MAX_DEPTH = 100
HEADER = struct.Struct(">I")
DIRECT_INT = 1 << 63  # larger ones travel in hexadecimal: decimal is slow to read, and limited to 4,300 digits
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON would join two lone ones that meet into one character
SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}
# How to get the plain value out of an instance of a subclass (Counter, namedtuple, IntEnum). The last step of each is
# a value of exactly that type; a subclass that interferes only decides, in its own process, which value that is.
PLAIN_BASES: dict[type, Callable] = {int: int.__int__, float: float.__float__, str: str.__str__, list: list} | {
    kind: kind for kind in (tuple, dict, set, frozenset, bytes, complex)
}
encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
decode = json.JSONDecoder().scan_once  # what `json.loads` calls, without its search for white space


class WireError(ValueError):
    """A value that cannot cross, or a message that is none."""


class NotPlainError(WireError):
    """A value of a type that cannot cross."""


def dumps(value: object) -> bytes:
    """Encode plain data. Raises NotPlainError for other types, WireError beyond MAX_DEPTH or MAX_BYTES."""
    body = encode(_pack(value, MAX_DEPTH)).encode("ascii")
    if len(body) > MAX_BYTES:
        raise WireError(f"a value of more than {MAX_BYTES >> 20} MiB")
    return body


def loads(body: bytes) -> object:
    """Rebuild plain data from bytes of unknown origin. Raises WireError for whatever `dumps` does not write."""
    try:
        text = body.decode("ascii")
        tree, end = decode(text, 0)
        if end < len(text):
            raise WireError("a message with something behind it")
        return _unpack(tree, MAX_DEPTH)
    except (
        ValueError,
        StopIteration,
        TypeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:  # TypeError: unhashable keys
        raise WireError("a message that cannot be read") from error


class Channel:
    """Messages over one stream socket. `wait` runs after each step, or wait, and raises when patience ends."""

    def __init__(self, fd: int, wait: Callable[[], None] = lambda: None) -> None:
        self._fd, self._wait = fd, wait

    def send(self, value: object) -> None:
        """Send one message. Raises WireError for a value that cannot cross, OSError if nobody listens any more."""
        self.send_encoded(dumps(value))

    def send_encoded(self, body: bytes) -> None:
        """Send one message that `dumps` has encoded."""
        data = memoryview(HEADER.pack(len(body)) + body)
        while data:
            with suppress(BlockingIOError):  # see limit_waiting
                data = data[os.write(self._fd, data) :]
            self._wait()

    def receive(self) -> object:
        """Receive one message. Raises WireError for a malformed or a second one, EOFError at the end, OSError."""
        data, size = bytearray(), HEADER.size
        while len(data) < size:
            with suppress(BlockingIOError):
                part = os.read(self._fd, 1 << 16)
                if not part:
                    raise EOFError
                data += part
            self._wait()
            if size == HEADER.size <= len(data):
                size += HEADER.unpack_from(data)[0]
                if size > HEADER.size + MAX_BYTES:
                    raise WireError(f"a message of more than {MAX_BYTES >> 20} MiB")
        if len(data) > size:  # each message is an answer, or waits for one
            raise WireError("a second message")
        return loads(data[HEADER.size :])


def limit_waiting(sock: socket.socket, seconds: float) -> None:
    """Let no read or write on the socket wait longer, so that a Channel's `wait` has its turn."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000)))


def _pack(value: object, depth: int) -> object:
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if kind is int:
        return value if -DIRECT_INT <= value < DIRECT_INT else {"int": format(value, "x")}
    if kind is str:
        plain = value.isascii() or not SURROGATE.search(value)
        return value if plain else {"text": value.encode("utf-8", "surrogatepass").hex()}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if depth == 0:
        raise WireError(f"a value nested more than {MAX_DEPTH} deep")
    depth -= 1
    if kind is list:
        return [_pack(item, depth) for item in value]
    if kind is dict:
        return {"dict": [[_pack(key, depth), _pack(item, depth)] for key, item in value.items()]}
    if kind in SEQUENCES.values():
        return {kind.__name__: [_pack(item, depth) for item in value]}
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():  # a scalar of numpy's
        return _pack(value.item(), depth)
    for base, plain in PLAIN_BASES.items():
        if issubclass(kind, base):
            return _pack(plain(value), depth)
    raise NotPlainError(f"a value of type {kind.__name__}, which is not plain data")


def _unpack(tree: object, depth: int) -> object:
    if not isinstance(tree, list | dict):
        return tree
    if depth == 0:
        raise WireError(f"a value nested more than {MAX_DEPTH} deep")
    depth -= 1
    if isinstance(tree, list):
        return [_unpack(item, depth) for item in tree]
    [(name, body)] = tree.items()
    match name, body:
        case "int", str():
            return int(body, 16)
        case "text", str():
            return bytes.fromhex(body).decode("utf-8", "surrogatepass")
        case "bytes", str():
            return bytes.fromhex(body)
        case "complex", [float(real), float(imaginary)]:
            return complex(real, imaginary)
        case "dict", list():
            return {_unpack(key, depth): _unpack(item, depth) for key, item in body}
        case (("tuple" | "set" | "frozenset"), list()):
            return SEQUENCES[name](_unpack(item, depth) for item in body)
    raise WireError("an object that names no type")
