"""Messages between the pool and a worker over one socket: a JSON header, then raw bytes. Nothing is ever unpickled."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

_HEADER_BYTES = 2**20
_SOCKET_BUFFER = 2**20


class ClosedError(ConnectionError):
    """The other side is gone, or said something that is not a message."""


class Channel:
    """One end of the socket.

    Args:
        sock: a connected stream socket; closed with the channel.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.deadline: float | None = None
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)

    def send(self, header: dict[str, Any], payload: bytes | memoryview | None = None) -> None:
        """Send a message; the header says nothing of the payload's size unless its sender puts it there.

        Raises:
            ClosedError, TimeoutError: the other side is gone, or `deadline` (on `time.monotonic`) passed.
        """
        text = json.dumps(header).encode()
        try:
            self._wait()
            self._sock.sendall(len(text).to_bytes(4, "little") + text)
            if payload is not None:
                self._wait()
                self._sock.sendall(payload)
        except TimeoutError:
            raise
        except OSError as error:
            raise ClosedError(str(error)) from error

    def receive(self) -> dict[str, Any]:
        """Receive a header.

        Raises:
            ClosedError, TimeoutError: as `send`.
        """
        size = int.from_bytes(self.receive_bytes(4), "little")
        if size > _HEADER_BYTES:
            raise ClosedError(f"A header may have {_HEADER_BYTES} bytes; {size} are announced.")
        try:
            header = json.loads(self.receive_bytes(size))
        except ValueError as error:
            raise ClosedError("The header must be JSON.") from error
        if not isinstance(header, dict):
            raise ClosedError("The header must be a map.")
        return header

    def receive_bytes(self, size: int) -> bytes:
        """Receive exactly `size` bytes; errors as `send`."""
        buffer = bytearray(size)
        self.receive_into(memoryview(buffer))
        return bytes(buffer)

    def receive_into(self, view: memoryview) -> None:
        """Fill `view`, which is contiguous and of bytes; errors as `send`."""
        while view.nbytes:
            self._wait()
            try:
                count = self._sock.recv_into(view)
            except TimeoutError:
                raise
            except OSError as error:
                raise ClosedError(str(error)) from error
            if count == 0:
                raise ClosedError("The other side closed the socket.")
            view = view[count:]

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _wait(self) -> None:
        """Give the next operation what is left until the deadline."""
        if self.deadline is None:
            self._sock.settimeout(None)
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("The deadline passed.")
        self._sock.settimeout(left)
