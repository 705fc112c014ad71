"""Batches for training: `open_feed` picks a source of data by what a folder holds."""

from training.feeds.choose import open_feed
from training.feeds.draw import Draw, Feed

__all__ = ["Draw", "Feed", "open_feed"]
