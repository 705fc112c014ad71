"""The life of a node's exporter: whichever process counts first starts it, and all of them see that one is there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.failures import LoopFailures
from service.metrics.exporter import LOCK

POLL_SECONDS = 1.0
FAILURE_SECONDS = 5.0  # between two tries, where the exporter ends at once: its port is taken, say
END_SECONDS = 5.0


class ExporterSupervisor:
    """A thread that starts the exporter of a folder whenever there is none.

    Args:
        folder: where the processes of this node count.
        host, port: where the exporter listens.
        mounts: filesystems that it shows, by name.
    """

    def __init__(self, folder: Path, host: str, port: int, mounts: Mapping[str, Path]) -> None:
        self._folder = folder
        self._command = [sys.executable, "-m", "service.metrics.exporter", os.fspath(folder), f"--host={host}"]
        self._command += [f"--port={port}", *(f"--mount={name}={path}" for name, path in mounts.items())]
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin; an exporter with other arguments, of an earlier deployment, makes way for one with these."""
        self._thread.start()

    def close(self) -> None:
        """Start no more exporters; the one that is there goes on."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        if (running := _running(self._folder)) is not None and running[1] != self._command[3:]:
            stop(self._folder)
        failures = LoopFailures("the start of the exporter of metrics")
        while self._folder.is_dir() and not self._closed.is_set():
            with failures.logged():
                if _running(self._folder) is None:
                    self._start_exporter()
            self._closed.wait(POLL_SECONDS)

    def _start_exporter(self) -> None:
        """Start the exporter, unless another process is doing so: all replicas of a node begin together."""
        with contextlib.suppress(OSError), _lock(self._folder):  # another process has the lock, or the folder is gone
            if _running(self._folder) is not None:
                return
            started = time.monotonic()
            # In a session of its own: it must outlive this process, whose children Ray ends.
            path = os.pathsep.join(filter(None, sys.path))  # where Ray found this application
            environment = os.environ | {"PYTHONPATH": path}
            subprocess.run([*self._command, "--detach"], stdin=subprocess.DEVNULL, env=environment, check=False)
            self._closed.wait(POLL_SECONDS)
            if _running(self._folder) is None and time.monotonic() - started < FAILURE_SECONDS:
                self._closed.wait(FAILURE_SECONDS)


def stop(folder: Path) -> None:
    """End the exporter of a folder, if there is one, and wait until its port is free."""
    deadline = time.monotonic() + END_SECONDS
    while (running := _running(folder)) is not None and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running[0], signal.SIGTERM)
        time.sleep(0.05)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder itself: a full disk could take no file for it.

    Raises:
        OSError: another process has it, or the folder is not there.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _running(folder: Path) -> tuple[int, list[str]] | None:
    """Return the process id and the arguments of the exporter that has the lock of a folder, or None."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        with contextlib.suppress(ValueError):
            pid, arguments = json.loads(os.read(lock, 2**16))
            return int(pid), list(arguments)
        return None  # it starts at this very moment
    finally:
        os.close(lock)
