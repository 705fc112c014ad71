"""Machinery that all operators share: dispatch, device checks, compilation, dependent launch."""
