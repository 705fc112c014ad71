"""Metrics of all processes of one node: each writes its own files, and one exporter shows their sums."""
