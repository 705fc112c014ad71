"""Data sets: shards of pixels on disk, and the builder of the demo data."""

from training.data.shards import PixelSet, SetInfo, open_set

__all__ = ["PixelSet", "SetInfo", "open_set"]
