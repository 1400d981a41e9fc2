"""Plain data over a socket: the only thing that crosses between the judge and an untrusted program.

A message is a four-byte length and JSON. JSON lacks tuples, sets, bytes, huge integers and others, so these travel as
an object with one key that names the type: `(1, 2)` is `{"tuple": [1, 2]}`. Nothing in a message can name code, a
class or a memory address, so reading one cannot run anything (`pickle` and `marshal` give no such promise).
"""

import json
import socket
import struct
from collections.abc import Callable

MAX_BYTES = 8 << 20
MAX_DEPTH = 100
HEADER = struct.Struct(">I")
DIRECT_INT = 1 << 63  # larger ones travel in hexadecimal: decimal is slow to read, and limited to 4,300 digits

# How to get the plain value out of an instance of a subclass (Counter, namedtuple, IntEnum), past its own methods.
PLAIN_BASES: dict[type, Callable] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    complex: complex,
    bytes: bytes,
    list: list,
    tuple: tuple,
    dict: dict,
    set: set,
    frozenset: frozenset,
}


class WireError(ValueError):
    """A value that cannot cross, or a message that is none."""


class NotPlainError(WireError):
    """A value of a type that cannot cross."""


class TooLargeError(WireError):
    """A value or a message beyond MAX_DEPTH or MAX_BYTES."""


def pack(value: object, depth: int = MAX_DEPTH) -> object:
    """Turn plain data into what JSON can hold. Raises NotPlainError or TooLargeError."""
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
        raise TooLargeError(f"a value nested more than {MAX_DEPTH} deep")
    if kind is list:
        return [pack(item, depth - 1) for item in value]
    if kind is tuple or kind is set or kind is frozenset:
        return {kind.__name__: [pack(item, depth - 1) for item in value]}
    if kind is dict:
        return {"dict": [[pack(key, depth - 1), pack(item, depth - 1)] for key, item in value.items()]}
    for base, plain in PLAIN_BASES.items():
        if issubclass(kind, base):
            return pack(plain(value), depth - 1)
    raise NotPlainError(f"a value of type {kind.__name__}, which is not plain data")


def unpack(tree: object, depth: int = MAX_DEPTH) -> object:
    """Rebuild plain data from parsed JSON of unknown origin. Raises WireError for whatever `pack` does not write."""
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if depth == 0:
        raise TooLargeError(f"a value nested more than {MAX_DEPTH} deep")
    if isinstance(tree, list):
        return [unpack(item, depth - 1) for item in tree]
    if not isinstance(tree, dict) or len(tree) != 1:
        raise WireError("an object that names no type")
    [(name, body)] = tree.items()
    try:
        return _unpack_tagged(name, body, depth)
    except (TypeError, ValueError, OverflowError) as error:  # also what an unhashable key or element raises
        if isinstance(error, WireError):
            raise
        raise WireError(f"a malformed {name[:20]}") from error


def dumps(value: object) -> bytes:
    """Encode plain data as one message body of at most MAX_BYTES. Raises NotPlainError or TooLargeError."""
    try:
        body = json.dumps(pack(value), separators=(",", ":")).encode("ascii")
    except RecursionError:  # the caller's own stack is nearly used up
        raise TooLargeError("a value nested too deep") from None
    if len(body) > MAX_BYTES:
        raise TooLargeError(f"a value of more than {MAX_BYTES >> 20} MiB")
    return body


def loads(body: bytes) -> object:
    """Decode one message body of unknown origin. Raises WireError and nothing else."""
    try:
        return unpack(json.loads(body))
    except (ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError("a message that cannot be read") from error


class Channel:
    """Messages over one stream socket.

    `wait`, where given, is called with a poll event mask before each read and write, returns when the socket is ready,
    and raises when patience is at an end; the socket must then be non-blocking.
    """

    def __init__(self, sock: socket.socket, wait: Callable[[bool], None] | None = None) -> None:
        self.sock = sock
        self._wait = wait

    def send(self, value: object) -> None:
        """Send one message. Raises WireError for what cannot cross, OSError where nobody listens any more."""
        body = dumps(value)
        data = memoryview(HEADER.pack(len(body)) + body)
        while data:
            if self._wait:
                self._wait(True)
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                continue

    def receive(self) -> object:
        """Receive one message. Raises WireError for a malformed one, EOFError at the end of the stream, OSError."""
        (size,) = HEADER.unpack(self._read(HEADER.size))
        if size > MAX_BYTES:
            raise TooLargeError(f"a message of more than {MAX_BYTES >> 20} MiB")
        return loads(self._read(size))

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            if self._wait:
                self._wait(False)
            try:
                part = self.sock.recv(min(size, 1 << 16))
            except BlockingIOError:
                continue
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _pack_text(text: str) -> object:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON would join two lone surrogates that meet into one character
        return {"text": text.encode("utf-8", "surrogatepass").hex()}
    return text


def _unpack_tagged(name: str, body: object, depth: int) -> object:
    if name == "int":
        return int(body, 16)
    if name == "text":
        return bytes.fromhex(body).decode("utf-8", "surrogatepass")
    if name == "bytes":
        return bytes.fromhex(body)
    if name == "complex":
        real, imaginary = body
        return complex(float(real), float(imaginary))
    if name == "dict":
        return {unpack(key, depth - 1): unpack(item, depth - 1) for key, item in body}
    kind = {"tuple": tuple, "set": set, "frozenset": frozenset}.get(name)
    if kind is None or not isinstance(body, list):
        raise WireError("an object that names no type")
    return kind(unpack(item, depth - 1) for item in body)
