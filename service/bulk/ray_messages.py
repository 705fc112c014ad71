"""Messages of Ray about tasks, such as those that were killed for their memory."""

from __future__ import annotations

import io
import sys

OWN_KILL = "killed by `ray.kill`"  # Ray Data ends its actors so when a run is interrupted


class RayMessages(io.TextIOBase):
    """A standard output for Ray, which writes to standard error, without the actors that the run itself ends."""

    def __init__(self) -> None:
        self._ends_line = True  # of what was dropped; Ray writes it by itself

    def write(self, text: str, /) -> int:
        kept = OWN_KILL not in text
        if kept and (self._ends_line or text != "\n"):
            sys.stderr.write(text)
        self._ends_line = kept
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
