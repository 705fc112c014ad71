"""The protocol between the trainer and every loader of data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from media.kinds import KINDS, Kind
from training.errors import TrainingError


@dataclass(frozen=True)
class BatchSpec:
    """One batch over all ranks: the items `first` to `first + count - 1` of a kind.

    Args:
        kind: still images, or clips.
        side: pixels of the square.
        count: items over all ranks.
        first: items of this kind that the run has drawn before: the whole position in the data.
        frames: of every item; 1 for images.

    Raises:
        TrainingError: a size or number that no batch can have.
    """

    kind: Kind
    side: int
    count: int
    first: int
    frames: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS or min(self.side, self.count, self.frames) < 1 or self.first < 0:
            raise TrainingError(f"No batch can be drawn as {self}.")
        if self.kind == "images" and self.frames != 1:
            raise TrainingError(f"An image has one frame, not {self.frames}.")

    def share(self, rank: int, ranks: int) -> range:
        """Return the numbers of the items that rank `rank` of `ranks` makes.

        Raises:
            TrainingError: the items do not divide among the ranks.
        """
        if self.count % ranks:
            raise TrainingError(f"{self.count} {self.kind} do not divide among {ranks} ranks.")
        each = self.count // ranks
        return range(self.first + rank * each, self.first + (rank + 1) * each)


class Loader(Protocol):
    """A source of batches without state.

    Item number n of a kind at a side and number of frames (its file, crop, flip and frames) depends on the seed, the
    kind and n alone. So a run resumes in the middle of an epoch from one counter a kind, and R ranks together make what
    one would.
    """

    def check(self, spec: BatchSpec) -> None:
        """Refuse, before a run begins, what could not be drawn.

        Raises:
            TrainingError: there are no items of this kind, side or number of frames, or they do not divide among the
                ranks.
        """

    def stream(self, specs: Iterable[BatchSpec]) -> Iterator[Any]:
        """Yield this rank's share of each batch, in order, on the device.

        A batch is pixels, uint8 (count / ranks, frames, side, side, 3), or codes with labels.

        Specs may be read ahead of what is yielded. One stream is open at a time: a new one ends the last.

        Raises:
            TrainingError: as `check`, or no file of a kind can be read.
        """

    def close(self) -> None:
        """Stop what works in the background; the loader is not used afterwards."""

    def describe(self) -> list[str]:
        """Return lines for people on what was read so far, and on what could not be."""
