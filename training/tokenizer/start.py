"""The start of a stage of a tokenizer: random weights, a bundle, or the end of the stage before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from media.kinds import Kind
from model.tokenizer.tokenizer import OmniTokenizer
from training.distributed import Ranks
from training.networks.lpips import FeatureDistance
from training.recipes import Recipe, Stage
from training.tokenizer.state import TrainState
from training.tokenizer.step import TrainingStep
from training.trainer import stage_history


@dataclass(frozen=True)
class StageStart:
    """The state that a stage takes over.

    Args:
        tokenizer: with the stage's head, on its device; a resumed stage needs its geometry alone.
        codebook_initialized: whether its codes were learned, so that the stage quantises from its first step.
        discriminators: weights of the stage before's.
        drawn: items of each kind that the run has drawn.
        history: sentences on what came before, for the model card.
    """

    tokenizer: OmniTokenizer
    codebook_initialized: bool = False
    discriminators: dict[str, Tensor] = field(default_factory=dict)
    drawn: dict[Kind, int] = field(default_factory=lambda: {"images": 0, "clips": 0})
    history: tuple[str, ...] = ()

    def step(
        self, recipe: Recipe, stage: Stage, ranks: Ranks | None = None, perceptual: FeatureDistance | None = None
    ) -> TrainingStep:
        """Return the step that trains the stage.

        Args:
            recipe, stage: the settings.
            ranks: the processes that train together.
            perceptual: the perceptual distance, where the stage has one.
        """
        state = TrainState(self.tokenizer, stage, recipe.seed, self.discriminators)
        return TrainingStep(state, stage, recipe.seed, ranks, perceptual, self.codebook_initialized)


def start_after(checkpoint: dict[str, Any], tokenizer: OmniTokenizer) -> StageStart:
    """Load the next stage's start from the checkpoint of a finished stage.

    Args:
        checkpoint: as `read_checkpoint` gives it.
        tokenizer: of that stage's geometry and head; receives its averaged weights.
    """
    state = checkpoint["state"]
    tokenizer.load_state_dict(state["ema"])
    history = stage_history(*(checkpoint[key] for key in ("history", "stage", "step", "seconds", "ranks")))
    return StageStart(
        tokenizer, checkpoint["codebook_initialized"], state["discriminators"], checkpoint["drawn"], history
    )
