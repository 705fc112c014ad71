"""Batches for training: `open_loader` picks a source of data by what a folder holds."""

from training.data.loaders.batch import BatchSpec, Loader
from training.data.loaders.open_loader import open_loader

__all__ = ["BatchSpec", "Loader", "open_loader"]
