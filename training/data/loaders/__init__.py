"""Batches for training: `open_feed` picks a source of data by what a folder holds."""

from training.data.loaders.choose import open_feed
from training.data.loaders.draw import Draw, Feed

__all__ = ["Draw", "Feed", "open_feed"]
