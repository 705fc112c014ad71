"""What can go wrong with data, recipes and checkpoints, told in one sentence."""


class TrainingError(ValueError):
    """Data, a recipe or a checkpoint that training cannot go on with."""


def one_line(error: Exception) -> str:
    """An exception for people: its first line, or its name where it says nothing."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
