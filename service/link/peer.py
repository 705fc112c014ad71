"""Connections of an ingress process to the tokenizers of its node."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import Protocol, cast

from service.link.directory import is_own_user
from service.link.messages import GREETING, MAGIC, Answer, AnswerReader, BadMessageError

CONNECT_SECONDS = 2.0

log = logging.getLogger("ray.serve")


class Owner(Protocol):
    """The caller of tokenizers."""

    def answered(self, number: int, answer: Answer) -> None:
        """Take an answer of a tokenizer."""

    def retire(self, number: int) -> None:
        """Send a tokenizer nothing more."""

    def lost(self, number: int) -> None:
        """Forget a tokenizer whose socket closed."""


class Peer(asyncio.Protocol):
    """The connection to one tokenizer process.

    Args:
        owner: takes what arrives.
        number: of the tokenizer, for its owner.
        name: of its socket.

    Attributes:
        models: hash of a bundle -> its index there; empty before its greeting.
    """

    def __init__(self, owner: Owner, number: int, name: str) -> None:
        self.number, self.name = number, name
        self.models: dict[str, int] = {}
        self._owner = owner
        self._reader = AnswerReader()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._cut_off = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._owner.lost(self.number)

    def data_received(self, data: bytes) -> None:
        if self._cut_off:
            return
        try:
            for answer in self._reader.feed(data):
                self._owner.answered(self.number, answer)
        except BadMessageError as error:
            # Its slots are free when it has closed its end, and not before.
            log.error("a tokenizer replica sent nonsense and is cut off: %s", error)
            self._cut_off = True
            self._owner.retire(self.number)
            assert self._transport is not None
            self._transport.write_eof()

    def send(self, message: bytes) -> None:
        """Send a message with all others of this turn of the loop."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(message)

    def abort(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self._cut_off:
            self._transport.write(b"".join(out))


def greet(connection: socket.socket, path: Path, size: int, descriptor: int) -> None:
    """Connect to a tokenizer, and let it map the arena.

    Args:
        connection: not connected so far.
        path: of its socket.
        size: of the arena, bytes.
        descriptor: of the arena, of its own: it is closed, and the arena may be closed meanwhile.

    Raises:
        OSError: it does not listen, or belongs to another user.
    """
    try:
        connection.settimeout(CONNECT_SECONDS)
        connection.connect(os.fspath(path))
        if not is_own_user(connection):
            raise PermissionError(f"{path} is another user's.")
        socket.send_fds(connection, [GREETING.pack(MAGIC, size)], [descriptor])
        connection.setblocking(False)
    finally:
        os.close(descriptor)
