"""Sizes in pixels and latent grids, torch-free: the network, the service, the command and training derive from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

Size = tuple[int, int, int]  # frames, height, width in pixels
Grid = tuple[int, int, int]  # latent frames, rows, columns


@dataclass(frozen=True)
class Geometry:
    """The correspondence of pixels and latent positions.

    Args:
        patch: pixels behind one latent position, in height and in width.
        temporal_patch: frames behind one latent frame; the first frame of a clip has a latent frame of its own.
    """

    patch: int
    temporal_patch: int

    def grid(self, size: Size) -> Grid:
        """Return the latent grid of a clip, padding included.

        Args:
            size: frames, height and width in pixels, each at least 1.

        Raises:
            ValueError: the size has an empty axis.
        """
        frames, height, width = size
        if min(size) < 1:
            raise ValueError(f"A clip needs at least one frame and one pixel, not {frames} x {height} x {width}.")
        return 1 + -(-(frames - 1) // self.temporal_patch), -(-height // self.patch), -(-width // self.patch)

    def size(self, grid: Grid) -> Size:
        """Return the size in pixels of a whole latent grid, which is what smaller clips are padded to."""
        frames, rows, columns = grid
        return 1 + (frames - 1) * self.temporal_patch, rows * self.patch, columns * self.patch

    def padded(self, size: Size) -> Size:
        """Return the size that a clip of `size` is padded to."""
        return self.size(self.grid(size))

    def positions(self, size: Size) -> int:
        """Return the number of latent positions of a clip, which is the measure of its work."""
        return math.prod(self.grid(size))
