"""The error of a command, in one sentence for the user."""

from __future__ import annotations


class CommandError(Exception):
    """One sentence for the person at the terminal; the command ends with exit code 1."""
