"""The speed of workers, measured over the last while."""

from __future__ import annotations

_PIXELS_PER_SECOND = 100e6  # before anything was measured
_BUSY_SECONDS = 20.0  # of work that count; older work fades


class DrainRate:
    """Pixels that one worker decodes in a second, as an average over its recent tasks."""

    def __init__(self) -> None:
        self._pixels, self._busy_seconds = _PIXELS_PER_SECOND, 1.0

    def add(self, pixels: float, seconds: float) -> None:
        """Count a task."""
        self._pixels += pixels
        self._busy_seconds += seconds
        if self._busy_seconds > _BUSY_SECONDS:
            self._pixels, self._busy_seconds = self._pixels / 2, self._busy_seconds / 2

    def seconds(self, pixels: float) -> float:
        """Return how long one worker takes."""
        return pixels * self._busy_seconds / self._pixels

    def pixels_in(self, seconds: float) -> float:
        """Return how far one worker gets."""
        return seconds * self._pixels / self._busy_seconds
