"""The log: JSON lines, one a request, with numbers and names of ours, never a payload or a file name.

Lines go to a pipe or a file, which `omnitok serve` copies to its standard output. Each is written at once and without
waiting: where nobody takes them, lines are lost and counted, and requests go on.
"""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger("omnitok.http")
LINE_BYTES = 4096  # of a pipe that several processes write to, the kernel keeps that much in one piece
STANDARD_ERROR = 2


class LineWriter:
    """Writes JSON lines.

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
        self._lost = 0

    def write(self, level: int, name: str, fields: dict[str, Any], error: BaseException | None = None) -> None:
        """Write one line; of a traceback that does not fit, the end."""
        head: dict[str, Any] = {"time": self._time(), "level": logging.getLevelName(level).lower(), "event": name}
        if self._lost:
            head |= {"lines_lost": self._lost}
        line = head | self._replica | fields
        text = self._encode(line)
        if error is not None:
            trace = "".join(traceback.format_exception(error))
            text = self._encode(line | {"traceback": trace})
            while len(text) >= LINE_BYTES and trace:
                trace = trace[len(text) - LINE_BYTES + 1 :]
                text = self._encode(line | {"traceback": trace})
        try:
            os.write(self._file, f"{text}\n".encode())
            self._lost = 0
        except OSError:  # full, or its reader has gone
            self._lost += 1

    def close(self) -> None:
        """Write nothing more."""
        if self._file != STANDARD_ERROR:
            os.close(self._file)

    def _time(self) -> str:
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        return f"{self._stamp}.{int(now % 1 * 1000):03d}Z"


class _Bridge(logging.Handler):
    """Takes what parts of the service without HTTP log under the name of `LOGGER`."""

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
        # The multipart parser warns of every malformed body; the request's own line says so already.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)


def event(level: int, name: str, fields: dict[str, Any], error: BaseException | None = None) -> None:
    """Write one line.

    Args:
        level: a level of `logging`.
        name: what happened.
        fields: JSON-ready details.
        error: the exception whose traceback belongs to it.
    """
    _writer.write(level, name, fields, error)
