"""The exporter of a node, a process of its own: `python -m service.metrics.exporter FOLDER ...`.

Replicas start it (see `exporter_supervisor`). It holds the folder for as long as one of them lives and a while longer,
so that counters go on when the service is deployed again.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from service.metrics.collectors import BuildCollector, FilesystemCollector, ProcessesCollector
from service.metrics.folder import living
from service.metrics.gpu import GpuCollector, nvml

LOCK, STARTED = "exporter", "started"
POLL_SECONDS = 2.0
LINGER_SECONDS = 30.0  # a service that is deployed anew takes less; a new cluster needs the port
LOCK_TRIES, LOCK_PAUSE_SECONDS = 10, 0.05  # whoever looks for the exporter holds the lock for a moment
NICENESS = 5  # adding up must not delay requests


def registry(folder: Path, mounts: dict[str, Path]) -> tuple[CollectorRegistry, ProcessesCollector]:
    """Return all that a node shows, and the part that must be compacted now and then.

    Args:
        folder: where its processes count.
        mounts: as for `FilesystemCollector`.
    """
    every, processes = CollectorRegistry(), ProcessesCollector(folder)
    (folder / STARTED).open("a").close()  # as old as the folder: another exporter is not a new service
    build = BuildCollector(version("omnitok"), (folder / STARTED).stat().st_mtime)
    for collector in (processes, FilesystemCollector(mounts), build, GpuCollector(nvml())):
        every.register(collector)
    return every, processes


def linger(folder: Path, processes: ProcessesCollector) -> None:
    """Return when no process has counted in the folder for a while, or when the folder is gone."""
    idle = 0.0
    while idle < LINGER_SECONDS and folder.is_dir():
        time.sleep(POLL_SECONDS)
        idle = 0.0 if living(folder) else idle + POLL_SECONDS
        processes.compact()


def main() -> None:
    """Serve the metrics of a folder until nobody counts there any more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mount", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--detach", action="store_true", help="go on without the process that started this one")
    options = parser.parse_args()
    if options.detach:
        if os.fork():
            return
        os.setsid()
    if not _lock(options.folder):
        return
    os.nice(NICENESS)
    mounts = {name: Path(path) for name, _, path in (mount.partition("=") for mount in options.mount)}
    every, processes = registry(options.folder, mounts)
    start_http_server(options.port, options.host, every)
    linger(options.folder, processes)


def _lock(folder: Path) -> bool:
    """Take a folder for the life of this process, and say who has it; False if another exporter has."""
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(parent, fcntl.LOCK_SH)  # its owner removes it when nobody uses it
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_SECONDS)
            continue
        os.truncate(lock, 0)
        os.write(lock, json.dumps([os.getpid(), [one for one in sys.argv[1:] if one != "--detach"]]).encode())
        return True
    return False


if __name__ == "__main__":
    main()
