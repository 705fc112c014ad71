"""Files that are refused before they are tried again."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class Blocklist:
    """Files, by hash, that crash the decoder; the oldest are forgotten, as is each after an hour.

    Args:
        clock: seconds, monotonic.
        size: files to remember.
        seconds: how long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, size: int = 1024, seconds: float = 3600.0) -> None:
        self._clock, self._size, self._seconds = clock, size, seconds
        self._lock = threading.Lock()
        self._until: OrderedDict[tuple[int, bytes], float] = OrderedDict()

    def add(self, data: bytes) -> None:
        """Remember a file."""
        with self._lock:
            self._until[_fingerprint(data)] = self._clock() + self._seconds
            while len(self._until) > self._size:
                self._until.popitem(last=False)

    def holds(self, data: bytes) -> bool:
        """Return whether the file is remembered; hashes it only if one of its length is."""
        with self._lock:
            now = self._clock()
            for key in [key for key, until in self._until.items() if until <= now]:
                del self._until[key]
            lengths = {length for length, _ in self._until}
        if len(data) not in lengths:
            return False
        fingerprint = _fingerprint(data)
        with self._lock:
            return fingerprint in self._until


def _fingerprint(data: bytes) -> tuple[int, bytes]:
    return len(data), hashlib.sha256(data).digest()
