"""The schedule of a stage: pure functions of the step, so that a resumed run follows the same plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training.data.loaders.draw import Draw, Kind
from training.errors import TrainingError
from training.recipes import Stage
from training.rng import SIDES, word
from training.tokenizer.step import Phase


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
                f"a stage is so many steps or seconds long, not steps={self.steps} and seconds={self.seconds}"
            )
        length = self.steps if self.steps is not None else self.seconds
        if length is None or not 0 < length < math.inf:
            raise TrainingError(f"the length of a stage must be positive and finite, not {self}")

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} seconds"

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data; `Budget(**data)` reads it back."""
        return {"steps": self.steps, "seconds": self.seconds}

    def spent(self, steps: int, seconds: float) -> float:
        """Share of the budget that is used up."""
        return steps / self.steps if self.steps is not None else seconds / (self.seconds or 1.0)


def learning_rate(stage: Stage, step: int, share: float) -> float:
    """The tokenizer's: linear warm-up over the first steps, times a cosine to zero over the stage (section 4).

    Args:
        stage: peak and warm-up.
        step: number of the step, from 1.
        share: share of the stage's length that was spent before it.
    """
    return stage.learning_rate * min(1.0, step / stage.warmup) * _cosine(share)


def discriminator_rate(stage: Stage, step: int, share: float) -> float:
    """The discriminators': warmed up from where they set in, brought to zero with the tokenizer's."""
    settings = stage.discriminators
    return settings.learning_rate * min(1.0, max(0, step - settings.start) / stage.warmup) * _cosine(share)


def phase_of(stage: Stage, step: int, plain: int) -> Phase:
    """Return the parts of step `step` (from 1), after `plain` steps without quantisation."""
    adversarial = stage.adversarial and step > stage.discriminators.start
    return Phase(
        quantise=stage.head == "vq" and step > plain,
        adversarial=adversarial,
        discriminate=adversarial and (step - stage.discriminators.start - 1) % stage.discriminators.every == 0,
    )


def draw_of(stage: Stage, seed: int, step: int, drawn: dict[Kind, int]) -> Draw:
    """The batch of a step.

    Args:
        stage: kinds of data, sides and sizes.
        seed: of the recipe.
        step: number of the step, from 1.
        drawn: items of each kind that the run drew before.
    """
    kind: Kind = "images" if stage.images and (step % 2 or not stage.clips) else "clips"
    sides = stage.sides_of(kind)
    side = sides[word(seed, SIDES, step) % len(sides)]
    return Draw(kind, side, stage.items(kind, side), drawn[kind], 1 if kind == "images" else stage.frames)


def draws(stage: Stage, seed: int, step: int, drawn: dict[Kind, int], last: int | None) -> Iterator[Draw]:
    """The batches after step `step`, up to step `last` or for ever."""
    drawn = dict(drawn)
    while last is None or step < last:
        step += 1
        draw = draw_of(stage, seed, step, drawn)
        drawn[draw.kind] += draw.count
        yield draw


def every_draw(stage: Stage) -> list[Draw]:
    """One draw of each kind and size that a stage has."""
    kinds: list[tuple[Kind, int]] = []
    if stage.images:
        kinds.append(("images", 1))
    if stage.clips:
        kinds.append(("clips", stage.frames))
    return [
        Draw(kind, side, stage.items(kind, side), 0, frames)
        for kind, frames in kinds
        for side in sorted(set(stage.sides_of(kind)))
    ]


def check_shares(stage: Stage, world: int) -> None:
    """Refuse batches that ranks and micro-batches cannot share equally.

    Raises:
        TrainingError: with the batch that does not divide.
    """
    parts = world * stage.accumulate
    for draw in every_draw(stage):
        if draw.count % parts:
            raise TrainingError(
                f"stage {stage.name} draws {draw.count} {draw.kind} of {draw.side} pixels, which {world} ranks of "
                f"{stage.accumulate} micro-batches do not share equally: set `multiple` to a multiple of {parts}"
            )


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
