"""Data sets: shards of pixels on disk, and folders of files."""

from training.data.shards import PixelSet, SetInfo, open_set

__all__ = ["PixelSet", "SetInfo", "open_set"]
