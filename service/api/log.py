"""The log: JSON lines, one a request, with numbers and names of ours, never a payload or a file name.

Lines go to a pipe or a file, which `omnitok serve` copies to its standard output. On an event loop they gather for a
moment: a system call for each, and the process that it wakes, cost as much as the answer itself. Nothing waits for a
reader: where nobody takes them, lines are lost and counted, and requests go on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger("omnitok.http")
LINE_BYTES = 4096  # of a pipe that several processes write to, the kernel keeps that much in one piece
STANDARD_ERROR = 2
GATHER_SECONDS = 0.05


class LineWriter:
    """A writer of JSON lines.

    Args:
        path: a pipe or a file to append to; None for standard error.
        replica: the name of this process in each line, or None.
    """

    def __init__(self, path: Path | None = None, replica: str | None = None) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        self._file = STANDARD_ERROR if path is None else os.open(path, flags, 0o600)
        self._replica = {} if replica is None else {"replica": replica}
        self._encode = json.JSONEncoder(default=str).encode
        self._second, self._stamp = 0, ""
        self._lines: deque[tuple[bytes, int]] = deque()  # with the lost ones that a line counts
        self._writing = threading.Lock()
        self._gathering: asyncio.AbstractEventLoop | None = None  # the loop that writes them soon
        self._lost = 0

    def write(self, level: int, name: str, fields: dict[str, Any], error: BaseException | None = None) -> None:
        """Write one line, soon; of a traceback that does not fit, the end."""
        head: dict[str, Any] = {"time": self._time(), "level": logging.getLevelName(level).lower(), "event": name}
        lost, self._lost = self._lost, 0
        if lost:
            head |= {"lines_lost": lost}
        line = head | self._replica | fields
        text = self._encode(line)
        if error is not None:
            trace = "".join(traceback.format_exception(error))
            text = self._encode(line | {"traceback": trace})
            while len(text) >= LINE_BYTES and trace:
                trace = trace[len(text) - LINE_BYTES + 1 :]
                text = self._encode(line | {"traceback": trace})
        self._lines.append((f"{text}\n".encode(), lost))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if self._gathering is not loop:
            self._gathering = loop
            loop.call_later(GATHER_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what has gathered, as many whole lines at a time as the kernel keeps in one piece."""
        self._gathering = None
        with self._writing:
            while self._lines:
                lines = [self._lines.popleft()]
                size = len(lines[0][0])
                while self._lines and size + len(self._lines[0][0]) <= LINE_BYTES:
                    lines.append(self._lines.popleft())
                    size += len(lines[-1][0])
                try:
                    os.write(self._file, b"".join(line for line, _ in lines))
                except OSError:  # full, or its reader has gone
                    self._lost += sum(1 + lost for _, lost in lines)

    def close(self) -> None:
        """Write what has gathered, and nothing more."""
        self.flush()
        if self._file != STANDARD_ERROR:
            os.close(self._file)

    def _time(self) -> str:
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        return f"{self._stamp}.{int(now % 1 * 1000):03d}Z"


class _Bridge(logging.Handler):
    """A handler for what parts of the service without HTTP log under the name of `LOGGER`."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        event(record.levelno, record.getMessage(), getattr(record, "fields", {}), error)


_writer = LineWriter()


def configure(path: Path | None = None, replica: str | None = None) -> None:
    """Choose where the lines of this process go; arguments as for `LineWriter`."""
    global _writer
    _writer, before = LineWriter(path, replica), _writer
    before.close()
    if not LOGGER.handlers:
        LOGGER.addHandler(_Bridge())
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False


def flush() -> None:
    """Write the lines of this process that have gathered."""
    _writer.flush()


def event(level: int, name: str, fields: dict[str, Any], error: BaseException | None = None) -> None:
    """Write one line.

    Args:
        level: a level of `logging`.
        name: what happened.
        fields: JSON-ready details.
        error: the exception whose traceback belongs to it.
    """
    _writer.write(level, name, fields, error)
