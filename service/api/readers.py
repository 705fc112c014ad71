"""The readers of long answers that hold no place of the work: events of jobs, and their contents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_READERS = 256  # in a replica


class Readers:
    """A bounded number of readers. Beyond it the one that has read longest ends, of the caller who has most.

    A crowd of readers would hold all of the proxy's places. Whoever is ended resumes, or asks again.

    Attributes:
        limit: the most at a time.
    """

    def __init__(self, limit: int = MAX_READERS) -> None:
        self.limit = limit
        self._all: dict[object, tuple[str, Callable[[], None]]] = {}  # the newest last

    def __len__(self) -> int:
        """Return the number of readers."""
        return len(self._all)

    @contextmanager
    def reading(self, caller: str, end: Callable[[], None]) -> Iterator[None]:
        """Count a reader while the context lasts.

        Args:
            caller: whose reader it is.
            end: called at most once, to make place for another one.
        """
        me = object()
        self._all[me] = caller, end
        if len(self._all) > self.limit:
            [(most, _)] = Counter(whose for whose, _ in self._all.values()).most_common(1)
            oldest = next(reader for reader, (whose, _) in self._all.items() if whose == most)
            self._all.pop(oldest)[1]()
        try:
            yield
        finally:
            self._all.pop(me, None)
