"""What can go wrong with data, recipes and checkpoints, told in one sentence."""


class TrainingError(ValueError):
    """Data, a recipe or a checkpoint that training cannot go on with."""
