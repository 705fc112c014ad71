"""Validation of a generator at every checkpoint: the loss of held-out items, sheets of samples by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console

from media.kinds import Kind
from media.spread import spread
from model.tokenizer.tokenizer import OmniTokenizer
from training.data.loaders.batch import BatchSpec
from training.generator.sampling import Sampler
from training.generator.step import GeneratorStep
from training.generator.token_dataset import CodeLoader
from training.pictures import contact_sheet, write_animation, write_image
from training.trainer import Trainer

MAX_CLASSES = 12
COLUMNS = 8
MAX_HELD_OUT, HELD_OUT_AT_ONCE = 512, 32  # items of a kind


class GeneratorValidator:
    """Called by the trainer after a checkpoint: samples every class with the averaged weights, always the same seeds.

    Args:
        tokenizer: of the codes, on the trainer's device.
        labels: classes that items of each kind have, in ascending order.
        console: for losses and the names of files.
        held_out: items that are not trained on.
    """

    def __init__(
        self,
        tokenizer: OmniTokenizer,
        labels: Mapping[Kind, Sequence[int]],
        console: Console,
        held_out: CodeLoader | None = None,
    ) -> None:
        self.tokenizer, self.console, self.held_out = tokenizer, console, held_out
        self.labels = {
            kind: [found[place] for place in spread(len(found), MAX_CLASSES)] for kind, found in labels.items()
        }

    def __call__(self, trainer: Trainer) -> None:
        """Measure held-out items; write a row for each class: images, or the frames of a clip, also as an animation."""
        assert isinstance(trainer.train_step, GeneratorStep)
        if self.held_out is not None:
            self._measure(self.held_out, trainer.train_step, trainer)
        ema, stem = trainer.train_step.ema, trainer.out / "samples" / f"{trainer.step:07d}"
        sampler = Sampler(ema)
        for kind, labels in self.labels.items():
            frames = ema.config.grid[0] if kind == "clips" else 1
            each = 1 if kind == "clips" else COLUMNS
            drawn = [label for label in labels for _ in range(each)]
            pixels = np.concatenate(list(sampler.pixels(self.tokenizer, drawn, frames)))
            path = stem.with_name(f"{stem.name}-{kind}.png")
            length = pixels.shape[1]
            if kind == "images":
                write_image(contact_sheet(*pixels[:, 0].reshape(-1, each, *pixels.shape[2:])), path)
            else:
                write_image(contact_sheet(*pixels[:, :: -(-length // COLUMNS)]), path)
                write_animation((contact_sheet(pixels[:, frame]) for frame in range(length)), path.with_suffix(".webp"))
            self.console.print(f"step {trainer.step:>6} samples: {path}", highlight=False)

    def _measure(self, held_out: CodeLoader, step: GeneratorStep[Any], trainer: Trainer) -> None:
        """Print and log the loss of the averaged weights on held-out items of each kind."""
        losses: dict[str, float] = {}
        for kind in self.labels:
            if (rows := held_out.report().get(kind, 0)) == 0:
                continue
            size = min(HELD_OUT_AT_ONCE, rows)
            firsts = range(0, min(MAX_HELD_OUT, rows) - size + 1, size)
            frames = trainer.stage.frames if kind == "clips" else 1
            (side,) = trainer.stage.resolutions_of(kind)
            batches = held_out.stream([BatchSpec(kind, side, size, first, frames) for first in firsts])
            found = [step.held_out_loss(batch, first) for batch, first in zip(batches, firsts, strict=True)]
            losses[kind] = float(torch.stack(found).mean())
        listed = ", ".join(f"{kind} {loss:.4f}" for kind, loss in losses.items())
        self.console.print(f"step {trainer.step:>6} held-out loss: {listed}", highlight=False)
        if trainer.metrics_logger is not None:
            trainer.metrics_logger.log_scalars("held-out loss", losses, trainer.step)
