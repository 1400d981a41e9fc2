"""How pool, judge, nursery and player talk to each other: requests to the nursery, and messages over a socket.

What is in a message is the business of values.py.
"""

import os
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

# Between judge and nursery. A request is one of the three below, and the Limits.
REQUEST = struct.Struct(">cdQd")
# To START: the player's process id, and one end of a socket to it. To END: its status as os.waitpid gives it, and the
# seconds of processor time that it used. Then whether programs are confined here.
REPLY = struct.Struct(">qd?")
# DROP ends a player as END does, without a reply.
START, END, DROP = b"S", b"E", b"D"
# A player kills itself with this signal if a layer fails on it. A confined program can send no signal.
NOT_CONFINED = getattr(signal, "SIGUSR1", 0)

# A message is its length and its bytes. The longest are arguments, with values.MAX_ARGUMENT_BYTES.
HEADER = struct.Struct(">I")
MAX_MESSAGE = 24 << 20


class Channel:
    """Messages over one stream socket. `wait` is called after every read, write or timeout, and raises to give up."""

    def __init__(self, fd: int, wait: Callable[[], None] = lambda: None) -> None:
        self._fd, self._wait = fd, wait

    def send(self, message: bytes) -> None:
        """Send one message. Raises OSError if nobody listens any more."""
        data = memoryview(HEADER.pack(len(message)) + message)
        while data:
            # See limit_waiting.
            with suppress(BlockingIOError):
                data = data[os.write(self._fd, data) :]
            self._wait()

    def receive(self) -> bytes:
        """Receive one message. Raises ValueError if it is too long or not alone, EOFError at the end, OSError."""
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
                if size > HEADER.size + MAX_MESSAGE:
                    raise ValueError(f"a message of more than {MAX_MESSAGE >> 20} MiB")
        # Each message is an answer or waits for one, so there can never be two.
        if len(data) > size:
            raise ValueError("a second message")
        return bytes(data[HEADER.size :])


def limit_waiting(sock: socket.socket, seconds: float) -> None:
    """Let no read or write on the socket wait longer than this, so that a Channel's `wait` gets its turn."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000)))
