"""One HTTP/1.1 connection of the load generator: sends prepared requests, reads whole answers, copies little."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

RECEIVE_BYTES = 2**18
SEND_BUFFER_BYTES = 2**20  # holds a usual body, so that one call sends it
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*(\d+(?:\.\d+)?)", re.IGNORECASE)
_PROBLEM = re.compile(rb'"code"\s*:\s*"([^"]{1,32})"')


class BadAnswerError(Exception):
    """An answer that is not HTTP/1.1."""


@dataclass(frozen=True)
class Answer:
    """The part of an answer that is kept.

    Args:
        status: of the response.
        retry_after: seconds, NaN without the header.
        problem: code of the problem document, empty if there is none.
        size: bytes of the body, framing included.
        close: the server will close the connection.
    """

    status: int
    retry_after: float
    problem: bytes
    size: int
    close: bool


@dataclass
class Connection:
    """A non-blocking socket with at most one request in flight."""

    socket: socket.socket
    row: int = -1  # of the request in flight, -1 when idle
    unsent: list[memoryview] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)

    @classmethod
    def open(cls, address: tuple[str, int]) -> Connection:
        """Begin to connect; the request that follows waits in the socket's own state."""
        new = socket.socket()
        new.setblocking(False)
        new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        new.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        new.connect_ex(address)
        return cls(new)

    def send(self, row: int, parts: Sequence[bytes]) -> bool:
        """Begin a request; return whether all of it is sent."""
        self.row = row
        self.received.clear()
        self.unsent = [memoryview(part) for part in parts]
        return self.flush()

    def flush(self) -> bool:
        """Send as much as the socket takes; return whether nothing is left.

        Raises:
            OSError: the connection is broken.
        """
        try:
            while self.unsent:
                self._drop(self.socket.sendmsg(self.unsent))
        except BlockingIOError:
            return False
        return True

    def _drop(self, sent: int) -> None:
        while self.unsent and sent >= len(self.unsent[0]):
            sent -= len(self.unsent.pop(0))
        if sent:
            self.unsent[0] = self.unsent[0][sent:]

    def receive(self, scratch: memoryview) -> Answer | None:
        """Read what is there; return the answer once it is whole.

        Raises:
            OSError: the connection is broken or ended.
            BadAnswerError: what came is not an answer.
        """
        count = self.socket.recv_into(scratch)
        if not count:
            raise ConnectionResetError("The server closed the connection.")
        self.received += scratch[:count]
        return parse(self.received)


def parse(data: bytearray) -> Answer | None:
    """Return the answer in these bytes, or None while it is incomplete.

    Raises:
        BadAnswerError: they are not an answer of HTTP/1.1.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(data[: end + 2])
    if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
        raise BadAnswerError(f"{head[:40]!r} is not the status line of an answer.")
    body = end + 4
    status = int(head[9:12])
    if 100 <= status < 200:
        del data[:body]
        return parse(data)
    if length := _LENGTH.search(head):
        complete = len(data) - body >= int(length[1])
    elif _CHUNKED.search(head):
        complete = _chunks_end(data, body)
    else:
        raise BadAnswerError("The answer has neither Content-Length nor chunks.")
    if not complete:
        return None
    retry = _RETRY_AFTER.search(head)
    problem = _PROBLEM.search(data, body) if status >= 400 else None
    return Answer(
        status=status,
        retry_after=float(retry[1]) if retry else float("nan"),
        problem=bytes(problem[1]) if problem else b"",
        size=len(data) - body,
        close=_CLOSE.search(head) is not None,
    )


def _chunks_end(data: bytearray, at: int) -> bool:
    while (line := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:line].partition(b";")[0], 16)
        except ValueError as error:
            raise BadAnswerError(f"{bytes(data[at:line][:20])!r} is not the size of a chunk.") from error
        if size == 0:
            return data.find(b"\r\n\r\n", line) >= 0
        at = line + 2 + size + 2
    return False
