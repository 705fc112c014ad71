"""Errors of a command, each one sentence for the user."""

from __future__ import annotations

from media.errors import MediaError
from service.errors import ProblemError, as_text


class CommandError(Exception):
    """One sentence for the person at the terminal; the command ends with exit code 1."""


class StopError(CommandError):
    """A failure that every further input would meet too."""


class SkipError(Exception):
    """The reason why an input is left alone."""


EXPECTED = (CommandError, MediaError, ProblemError, MemoryError, OSError)


def sentence(error: BaseException) -> str:
    """Return what an error of `EXPECTED` says to the user."""
    if isinstance(error, MediaError | ProblemError):
        return as_text(error.detail, error.errors)
    if isinstance(error, MemoryError):
        return "The memory of this machine does not suffice; use a smaller --size or fewer --frames."
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
