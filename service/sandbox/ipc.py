"""Messages between the pool and a worker over one socket: a JSON header, then raw bytes. Nothing is ever unpickled."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from typing import Any

_HEADER_BYTES = 2**20
_SOCKET_BUFFER = 2**20
# Read at once: a header, as a rule, and the first bytes after it.
_AHEAD_BYTES = 2**12
# Of the socket's buffer, which counts the kernel's own bytes too.
_BUFFER_SHARE = 4
# Of what the event loop parses.
_SHORT_HEADER_BYTES = 2**14
# Up to so many bytes a copy costs less than a call of the kernel that wakes the other side twice.
_JOINED_BYTES = 2**18


class ClosedError(ConnectionError):
    """The other side is gone, or said something that is not a message."""


class Channel:
    """One end of the socket.

    Args:
        sock: a connected stream socket; closed with the channel.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._ahead = bytearray()
        self.deadline: float | None = None
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
        self._fitting_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // _BUFFER_SHARE

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._sock.fileno()

    def send(self, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
        """Send a message; the header says nothing of the payload's size unless its sender puts it there.

        Raises:
            ClosedError, TimeoutError: the other side is gone, or `deadline` (on `time.monotonic`) passed.
        """
        head = _head(header)
        joined = memoryview(payload).nbytes <= _JOINED_BYTES
        try:
            self._wait()
            self._sock.sendall(b"".join((head, payload)) if joined else head)
            if not joined:
                self._wait()
                self._sock.sendall(payload)
        except TimeoutError:
            raise
        except OSError as error:
            raise ClosedError(str(error)) from error

    def fits(self, payload: bytes) -> bool:
        """Return whether `send_now` can send it."""
        return len(payload) <= self._fitting_bytes

    def send_now(self, header: dict[str, Any], payload: bytes) -> None:
        """Send a message that fits into the socket's buffer, which is empty, without waiting.

        Raises:
            ClosedError: the other side is gone, or it left earlier messages there.
        """
        message = _head(header) + payload
        self.deadline = None
        try:
            self._wait()
            count = self._sock.send(message, socket.MSG_DONTWAIT)
        except OSError as error:
            raise ClosedError(str(error)) from error
        if count < len(message):
            raise ClosedError("The other side reads no messages.")

    def receive(self) -> dict[str, Any]:
        """Receive a header.

        Raises:
            ClosedError, TimeoutError: as `send`.
        """
        while (header := self._header()) is None:
            self._wait()
            self._read_ahead()
        return header

    def receive_bytes(self, size: int) -> bytes:
        """Receive exactly `size` bytes; errors as `send`."""
        buffer = bytearray(size)
        self.receive_into(memoryview(buffer))
        return bytes(buffer)

    def receive_into(self, view: memoryview) -> None:
        """Fill `view`, which is contiguous and of bytes; errors as `send`."""
        view = self._take_ahead(view)
        while view.nbytes:
            self._wait()
            view = view[self._read_into(view) :]

    def receive_now(self) -> dict[str, Any] | None:
        """Receive a header without waiting; return None while a part of it is still to come.

        Raises:
            ClosedError: as `send`.
        """
        header = self._header(_SHORT_HEADER_BYTES)
        if header is None:
            with suppress(BlockingIOError):
                self._read_ahead(socket.MSG_DONTWAIT)
            header = self._header(_SHORT_HEADER_BYTES)
        return header

    def receive_into_now(self, view: memoryview) -> memoryview:
        """Fill `view` with what has come, and return the part of it that is still to be filled; errors as above.

        It reads once: a fast sender would else keep the event loop.
        """
        view = self._take_ahead(view)
        if view.nbytes:
            with suppress(BlockingIOError):
                view = view[self._read_into(view, socket.MSG_DONTWAIT) :]
        return view

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _header(self, limit: int = _HEADER_BYTES) -> dict[str, Any] | None:
        """Return the header that came, of at most `limit` bytes, or None if a part of it is still to come."""
        ahead = self._ahead
        if len(ahead) < 4:
            return None
        end = 4 + int.from_bytes(ahead[:4], "little")
        if end > limit:
            raise ClosedError(f"A header may have {limit} bytes; {end} are announced.")
        if len(ahead) < end:
            return None
        try:
            header = json.loads(ahead[4:end])
        except (ValueError, RecursionError) as error:
            raise ClosedError("The header must be JSON.") from error
        if not isinstance(header, dict):
            raise ClosedError("The header must be a map.")
        del ahead[:end]
        return header

    def _take_ahead(self, view: memoryview) -> memoryview:
        """Move what came with a header into `view`; return the rest of it."""
        count = min(len(self._ahead), view.nbytes)
        view[:count] = self._ahead[:count]
        del self._ahead[:count]
        return view[count:]

    def _read_ahead(self, flags: int = 0) -> None:
        data = bytearray(_AHEAD_BYTES)
        self._ahead += memoryview(data)[: self._read_into(memoryview(data), flags)]

    def _read_into(self, view: memoryview, flags: int = 0) -> int:
        """Return how many bytes came."""
        try:
            count = self._sock.recv_into(view, 0, flags)
        except (TimeoutError, BlockingIOError):
            raise
        except OSError as error:
            raise ClosedError(str(error)) from error
        if count == 0:
            raise ClosedError("The other side closed the socket.")
        return count

    def _wait(self) -> None:
        """Give the next operation what is left until the deadline."""
        if self.deadline is None:
            if self._sock.gettimeout() is not None:  # a change is a call of the kernel
                self._sock.settimeout(None)
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("The deadline passed.")
        self._sock.settimeout(left)


def _head(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "little") + text
