"""Batches for training: `open_feed` picks a source of data by what a folder holds."""

from training.feeds.draw import Draw, Feed

__all__ = ["Draw", "Feed"]
