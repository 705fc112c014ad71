"""Metrics of reconstructed frames."""
