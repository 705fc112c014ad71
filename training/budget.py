"""The length of a stage."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.errors import TrainingError


@dataclass(frozen=True)
class Budget:
    """The length of a stage: exactly one of the two is set. The learning rate follows the share that is spent.

    Args:
        steps: optimiser steps.
        seconds: time in the loop, all resumed parts together.

    Raises:
        TrainingError: neither or both are set, or the length is not positive and finite.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise TrainingError(
                f"The length of a stage is in steps or seconds, not steps={self.steps} and seconds={self.seconds}."
            )
        if not 0 < (self.steps or self.seconds or 0) < math.inf:
            raise TrainingError(f"The length of a stage must be positive and finite, not {self}.")

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} seconds"

    def spent(self, steps: int, seconds: float) -> float:
        """Return the share of the budget that is used up."""
        return steps / self.steps if self.steps is not None else seconds / (self.seconds or 1.0)
