"""Plain data over a socket: the only thing that crosses between the judge and an untrusted program.

A message is a four-byte length and JSON. JSON lacks tuples, sets, bytes, huge integers and others, so these travel as
an object with one key that names the type: `(1, 2)` is `{"tuple": [1, 2]}`. Nothing in a message can name code, a
class or a memory address, so reading one cannot run anything (`pickle` and `marshal` give no such promise).
"""

import json
import socket
import struct
from collections.abc import Callable

MAX_BYTES = 4 << 20
MAX_DEPTH = 100
HEADER = struct.Struct(">I")
DIRECT_INT = 1 << 63  # larger ones travel in hexadecimal: decimal is slow to read, and limited to 4,300 digits
SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}
# How to get the plain value out of an instance of a subclass (Counter, namedtuple, IntEnum). The last step of each is
# a value of exactly that type; a subclass that interferes only decides, in its own process, which value that is.
PLAIN_BASES: dict[type, Callable] = {int: int.__int__, float: float.__float__, str: str.__str__, list: list} | {
    kind: kind for kind in (tuple, dict, set, frozenset, bytes, complex)
}


class WireError(ValueError):
    """A value that cannot cross, or a message that is none."""


class NotPlainError(WireError):
    """A value of a type that cannot cross."""


def dumps(value: object) -> bytes:
    """Encode plain data. Raises NotPlainError for other types, WireError beyond MAX_DEPTH or MAX_BYTES."""
    body = json.dumps(_pack(value, MAX_DEPTH), separators=(",", ":")).encode("ascii")
    if len(body) > MAX_BYTES:
        raise WireError(f"a value of more than {MAX_BYTES >> 20} MiB")
    return body


def loads(body: bytes) -> object:
    """Rebuild plain data from bytes of unknown origin. Raises WireError for whatever `dumps` does not write."""
    try:
        return _unpack(json.loads(body), MAX_DEPTH)
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:  # TypeError: unhashable keys
        raise WireError("a message that cannot be read") from error


class Channel:
    """Messages over one stream socket.

    `wait`, needed for a non-blocking socket, returns when the socket is ready, for writing where its argument is true,
    and raises when patience is at an end.
    """

    def __init__(self, sock: socket.socket, wait: Callable[[bool], None] | None = None) -> None:
        self.sock = sock
        self._wait = wait

    def send(self, value: object) -> None:
        """Send one message. Raises WireError for what cannot cross, OSError where nobody listens any more."""
        body = dumps(value)
        data = memoryview(HEADER.pack(len(body)) + body)
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                self._wait(True)

    def receive(self) -> object:
        """Receive one message. Raises WireError for a malformed one, EOFError at the end of the stream, OSError."""
        (size,) = HEADER.unpack(self._read(HEADER.size))
        if size > MAX_BYTES:
            raise WireError(f"a message of more than {MAX_BYTES >> 20} MiB")
        return loads(self._read(size))

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            if self._wait:
                self._wait(False)
            part = self.sock.recv(min(size, 1 << 16))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _pack(value: object, depth: int) -> object:
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if kind is int:
        return value if -DIRECT_INT <= value < DIRECT_INT else {"int": format(value, "x")}
    if kind is str:
        return value if value.isascii() else _pack_text(value)
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if depth == 0:
        raise WireError(f"a value nested more than {MAX_DEPTH} deep")
    if kind is list:
        return [_pack(item, depth - 1) for item in value]
    if kind.__name__ in SEQUENCES and kind is SEQUENCES[kind.__name__]:
        return {kind.__name__: [_pack(item, depth - 1) for item in value]}
    if kind is dict:
        return {"dict": [[_pack(key, depth - 1), _pack(item, depth - 1)] for key, item in value.items()]}
    for base, plain in PLAIN_BASES.items():
        if issubclass(kind, base):
            return _pack(plain(value), depth - 1)
    raise NotPlainError(f"a value of type {kind.__name__}, which is not plain data")


def _pack_text(text: str) -> object:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON would join two lone surrogates that meet into one character
        return {"text": text.encode("utf-8", "surrogatepass").hex()}
    return text


def _unpack(tree: object, depth: int) -> object:
    if not isinstance(tree, list | dict):
        return tree
    if depth == 0:
        raise WireError(f"a value nested more than {MAX_DEPTH} deep")
    if isinstance(tree, list):
        return [_unpack(item, depth - 1) for item in tree]
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
            return {_unpack(key, depth - 1): _unpack(item, depth - 1) for key, item in body}
        case (("tuple" | "set" | "frozenset"), list()):
            return SEQUENCES[name](_unpack(item, depth - 1) for item in body)
    raise WireError("an object that names no type")
