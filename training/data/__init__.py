"""Data sets: shards of pixels on disk, and folders of files."""
