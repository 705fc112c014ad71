"""The way of log lines from replicas to standard output: a pipe that Ray's files have no part in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

PIPE_BYTES = 2**20  # what waits while standard output is slow; the most that any user may ask for


class OptionalConsole(Console):
    """A console on standard output that may fail: `tee` leaves at Ctrl-C, a disk fills, a terminal closes."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as Rich does, while it is possible."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Print nothing any more, and let Python's own flush at the end succeed; Rich's own would exit."""
        self.quiet = True
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


@contextlib.contextmanager
def log_relay(folder: Path, output: int | None = None) -> Iterator[Path]:
    """Yield a pipe, and copy whole lines from it to standard output until the context ends.

    Args:
        folder: for the pipe.
        output: another descriptor than that of standard output.
    """
    path = folder / "log"
    os.mkfifo(path, 0o600)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # as a writer too, so that it never ends
    with contextlib.suppress(OSError):  # the user has used up what pipes may take
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    stopped, stop = os.pipe()
    arguments = (pipe, stopped, sys.stdout.fileno() if output is None else output)
    thread = threading.Thread(target=_copy, args=arguments, name="log", daemon=True)
    thread.start()
    try:
        yield path
    finally:
        os.close(stop)
        thread.join(timeout=1.0)  # whoever does not read standard output shall not hold up the end


def _copy(pipe: int, stopped: int, output: int) -> None:
    while True:
        ready, _, _ = select.select((pipe, stopped), (), ())
        if pipe in ready:
            # All that is there, and so whole lines: each was written in one piece.
            _write(output, os.read(pipe, PIPE_BYTES))
        elif stopped in ready:
            os.close(pipe)
            os.close(stopped)
            return


def _write(output: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(output, data) :]
        except OSError:  # nobody reads it any more; the service goes on
            return
