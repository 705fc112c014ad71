"""The memory that a process fills, watched while it lives: nothing shows it afterwards."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Self

_POLL_SECONDS = 0.01


class MemoryWatch:
    """A thread that looks at the memory of a process until the `with` block ends.

    Args:
        pid: process id.

    Attributes:
        peak_bytes: the most resident memory that was seen.
    """

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._look()  # at once, for a process may be killed before the thread gets its turn
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", self._status.read_text())
        except OSError:
            return  # the process is gone
        if found:
            self.peak_bytes = max(self.peak_bytes, 1024 * int(found[1]))
