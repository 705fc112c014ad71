"""The refusal of a whole run."""

from __future__ import annotations


class BulkError(Exception):
    """A run that cannot start or go on; full sentences for the person who asked for it."""
