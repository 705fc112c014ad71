"""Batches for training, from sets of pixels or from files."""
