"""The end of answers in HAProxy, some time after that in the replicas."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from service.cluster.ray_environment import HAPROXY_FILES

ADMIN_SOCKET = HAPROXY_FILES["RAY_SERVE_HAPROXY_SOCKET_PATH"]
REQUESTS = b"show sess\n"
# A line of a request that has a backend; `age` is like 1d2h or 7s, and counts from the first byte of the request.
REQUEST = re.compile(r" be=(?!<NONE>)\S.* age=(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
UNIT_SECONDS = (86400, 3600, 60, 1)
AGE_ERROR_SECONDS = 1.0  # HAProxy's clock of ages has whole seconds
POLL_SECONDS = 0.1
ANSWER_SECONDS = 2.0


def wait_until_taken(folder: Path, seconds: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Wait until callers have taken all answers that replicas have made, and return whether they did in time.

    Requests that begin meanwhile do not count: they are refused, and a crowd of them would never end.

    Args:
        folder: of the cluster, whose proxy it may not be: then nothing is waited for.
        seconds: the longest wait.
        clock: seconds.
    """
    began = clock()
    while True:
        waited = clock() - began
        paths = folder.glob(f"*/{ADMIN_SOCKET}")  # Ray has a folder for each node
        if not any(age > waited - AGE_ERROR_SECONDS for path in paths for age in _ages(path)):
            return True
        if waited >= seconds:
            return False
        time.sleep(POLL_SECONDS)


def _ages(path: Path) -> list[int]:
    """Return the ages of requests whose answers have not left, seconds; none if HAProxy itself is gone."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(path))
            connection.sendall(REQUESTS)
            with connection.makefile() as lines:
                found = [REQUEST.search(line) for line in lines]
    except OSError:
        return []
    return [_seconds(match.groups("0")) for match in found if match]


def _seconds(units: tuple[str, ...]) -> int:
    return sum(int(number) * unit for number, unit in zip(units, UNIT_SECONDS, strict=True))
