"""Errors of data, recipes and checkpoints, one sentence each."""


class TrainingError(ValueError):
    """Data, a recipe or a checkpoint that training cannot go on with."""


def one_line(error: Exception) -> str:
    """Return an exception for people: its first line, or its name where it says nothing."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
