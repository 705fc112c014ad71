"""The schedule of a stage: pure functions of the step, so that a resumed run follows the same plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from training.data.loaders.batch import BatchSpec, Kind
from training.errors import TrainingError
from training.recipes import AnyStage, Stage
from training.rng import RESOLUTIONS, random_int


class Phase(NamedTuple):
    """The parts of a step; known before it runs.

    Args:
        quantise: the decoder sees codes, and equation 1 holds; a VAE has nothing to quantise.
        adversarial: the tokenizer hears the discriminators.
        discriminate: the discriminators learn, after the tokenizer.
    """

    quantise: bool
    adversarial: bool = False
    discriminate: bool = False


def learning_rate(stage: AnyStage, step: int, share: float) -> float:
    """Return the tokenizer's rate: linear warm-up times a cosine to zero over the stage (section 4).

    Args:
        stage: peak and warm-up.
        step: number of the step, from 1.
        share: share of the stage's length that was spent before it.
    """
    return stage.learning_rate * min(1.0, step / stage.warmup_steps) * _cosine(share)


def discriminator_learning_rate(stage: Stage, step: int, share: float) -> float:
    """Return the discriminators' rate: warmed up from their start, brought to zero with the tokenizer's."""
    settings = stage.discriminators
    return settings.learning_rate * min(1.0, max(0, step - settings.start) / stage.warmup_steps) * _cosine(share)


def phase_at(stage: Stage, step: int, unquantized_steps: int) -> Phase:
    """Return the parts of step `step`, from 1."""
    settings = stage.discriminators
    adversarial = stage.adversarial and step > settings.start
    turn = (step - settings.start - 1) // (1 + stage.alternates)  # of both kinds, or one of them would be left out
    return Phase(
        quantise=stage.head == "vq" and step > unquantized_steps,
        adversarial=adversarial,
        discriminate=adversarial and turn % settings.every == 0,
    )


def batch_at(stage: AnyStage, seed: int, step: int, drawn: dict[Kind, int]) -> BatchSpec:
    """Return the batch of step `step`, from 1, of a run that drew so many items of each kind before."""
    kind: Kind = "images" if stage.image_batch_size and (step % 2 or not stage.clip_batch_size) else "clips"
    resolutions = stage.resolutions_of(kind)
    resolution = resolutions[random_int(seed, RESOLUTIONS, step) % len(resolutions)]
    frames = 1 if kind == "images" else stage.frames
    return BatchSpec(kind, resolution, stage.batch_size(kind, resolution), drawn[kind], frames)


def batches_after(
    stage: AnyStage, seed: int, step: int, drawn: dict[Kind, int], last: int | None
) -> Iterator[BatchSpec]:
    """Yield the batches after step `step`, up to step `last` or for ever."""
    drawn = dict(drawn)
    while last is None or step < last:
        step += 1
        batch = batch_at(stage, seed, step, drawn)
        drawn[batch.kind] += batch.count
        yield batch


def batch_shapes(stage: AnyStage) -> list[BatchSpec]:
    """Return one batch of each kind and resolution of a stage."""
    kinds: dict[Kind, int] = {"images": 1} if stage.image_batch_size else {}
    if stage.clip_batch_size:
        kinds["clips"] = stage.frames
    return [
        BatchSpec(kind, resolution, stage.batch_size(kind, resolution), 0, frames)
        for kind, frames in kinds.items()
        for resolution in sorted(set(stage.resolutions_of(kind)))
    ]


def check_divisible(stage: AnyStage, world: int) -> None:
    """Refuse batches that ranks and micro-batches cannot share equally.

    Raises:
        TrainingError: with the batch that does not divide.
    """
    micro_batches = stage.gradient_accumulation_steps
    parts = world * micro_batches
    for batch in batch_shapes(stage):
        if batch.count % parts:
            raise TrainingError(
                f"Stage {stage.name} draws {batch.count} {batch.kind} of {batch.side} pixels, which {world} ranks of "
                f"{micro_batches} micro-batches do not share equally: set `batch_multiple` to a multiple of {parts}."
            )


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
