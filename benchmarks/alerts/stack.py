"""A service under a supervisor, which a Prometheus watches."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.prometheus import Prometheus
from benchmarks.service.process import (
    API,
    START_SECONDS,
    StartError,
    free_ports,
    is_ready,
    log_tail,
    serve,
    stop,
)
from service.cluster.process_tree import descendants, signal_all

DISK_BYTES = 256 * 2**20
POLL_SECONDS = 0.5


@dataclass
class Stack:
    """The service and Prometheus.

    Args:
        folder: of logs and data.
        disk: a small file system for Ray's folder, which a fault may fill.
        variables: of the service.
        ports: of the service, as variables.
    """

    folder: Path
    disk: Path
    variables: dict[str, str]
    ports: dict[str, str] = field(default_factory=free_ports)
    restart_pause_seconds: float = 1.0
    restarts: int = 0
    process: subprocess.Popen[bytes] | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.ports[API]}"
        self.prometheus = Prometheus(self.folder, self.ports)

    def supervise(self) -> None:
        """Start the service, and start it again whenever it ends, as a supervisor does."""
        variables = self.ports | self.variables | {"RAY_TMPDIR": str(self.disk)}

        def run() -> None:
            while not self._ended.is_set():
                self.process = serve(self.folder / "service.log", variables, session=True)
                self.process.wait()
                self.restarts += 1
                self._ended.wait(self.restart_pause_seconds)

        threading.Thread(target=run, daemon=True).start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when the service is ready, whichever start of it that is.

        Raises:
            StartError: it is not, within some minutes.
        """
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(self.url):
            if time.monotonic() > deadline:
                tail = log_tail(self.folder / "service.log")
                raise StartError(f"{self.url} is not ready after {START_SECONDS:.0f} s.\n{tail}")
            time.sleep(POLL_SECONDS)

    def pids(self, pattern: str) -> list[int]:
        """Return the processes of the service whose command line or name fits a pattern."""
        assert self.process is not None
        found = []
        for pid in (self.process.pid, *descendants(self.process.pid)):
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if re.search(pattern, line):
                    found.append(pid)
        return found

    def kill(self, pattern: str) -> int:
        """End the processes that fit a pattern by SIGKILL, and return how many."""
        victims = self.pids(pattern)
        signal_all(victims, signal.SIGKILL)
        return len(victims)

    def close(self) -> None:
        """Stop the service for good."""
        self._ended.set()
        if self.process is not None:
            stop(self.process)


@contextmanager
def stack(folder: Path, bundle: Path, generator: Path) -> Iterator[Stack]:
    """Yield a running stack; its disk is in memory and small, which needs root."""
    disk = Path(f"/tmp/a{os.getpid() % 1000:03}")  # short: Ray's sockets are in it
    disk.mkdir()
    with ExitStack() as cleanup:
        cleanup.callback(disk.rmdir)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
        cleanup.callback(subprocess.run, ["umount", "-l", str(disk)], check=False)
        variables = {
            "OMNITOK_BUNDLES": json.dumps([str(bundle.resolve())]),
            "OMNITOK_GENERATORS": json.dumps([str(generator.resolve())]),
            "OMNITOK_MAX_QUEUE_SECONDS": "30",
            "OMNITOK_TORCH_THREADS": "1",
            "OMNITOK_JOBS_FOLDER": str(folder / "jobs"),
        }
        running = Stack(folder, disk, variables)
        cleanup.callback(running.close)
        running.supervise()
        cleanup.enter_context(running.prometheus)
        yield running
