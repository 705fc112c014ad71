"""The end of answers in HAProxy, some time after that in the replicas."""

from __future__ import annotations

import csv
import socket
import time
from pathlib import Path

from service.cluster.ray_environment import HAPROXY_FILES

ADMIN_SOCKET = HAPROXY_FILES["RAY_SERVE_HAPROXY_SOCKET_PATH"]
BACKENDS = b"show stat -1 2 -1\n"
POLL_SECONDS = 0.05
ANSWER_SECONDS = 2.0


def wait_until_taken(folder: Path, seconds: float) -> bool:
    """Wait until callers have taken all answers, and return whether they did in time.

    Args:
        folder: of the cluster, whose proxy it may not be: then nothing is waited for.
        seconds: the longest wait.
    """
    deadline = time.monotonic() + seconds
    while any(map(_requests, folder.glob(f"*/{ADMIN_SOCKET}"))):  # Ray has a folder for each node
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _requests(path: Path) -> int:
    """Return the number of requests whose answers have not left, 0 if HAProxy itself is gone."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(path))
            connection.sendall(BACKENDS)
            with connection.makefile() as lines:
                return sum(int(row["scur"]) for row in csv.DictReader(lines) if row["scur"])
    except OSError:
        return 0
