"""Validation of a generator at every checkpoint: sheets of samples by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console

from model.tokenizer.tokenizer import OmniTokenizer
from training.data.media_types import Kind
from training.generator.sampling import Sampler
from training.generator.step import GeneratorStep
from training.pictures import contact_sheet, write_image
from training.trainer import Trainer

MAX_CLASSES = 12
COLUMNS = 8
FRAME_MS = 125


class SampleSheets:
    """Called by the trainer after a checkpoint: samples every class with the averaged weights, always the same seeds.

    Args:
        tokenizer: of the codes, on the trainer's device.
        labels: classes that items of each kind have.
        console: for the names of files.
    """

    def __init__(self, tokenizer: OmniTokenizer, labels: Mapping[Kind, Sequence[int]], console: Console) -> None:
        self.tokenizer, self.console = tokenizer, console
        self.labels = {kind: _spread(sorted(found)) for kind, found in labels.items()}

    def __call__(self, trainer: Trainer) -> None:
        """Write a row for each class: images, or the frames of a clip, which is also an animation."""
        assert isinstance(trainer.train_step, GeneratorStep)
        ema, stem = trainer.train_step.ema, trainer.out / "samples" / f"{trainer.step:07d}"
        sampler = Sampler(ema)
        for kind, labels in self.labels.items():
            frames = ema.config.grid[0] if kind == "clips" else 1
            each = 1 if kind == "clips" else COLUMNS
            drawn = [label for label in labels for _ in range(each)]
            pixels = np.concatenate(list(sampler.pixels(self.tokenizer, drawn, frames)))
            path = stem.with_name(f"{stem.name}-{kind}.png")
            length = pixels.shape[1]
            rows = pixels[:, 0].reshape(-1, each, *pixels.shape[2:])
            if kind == "clips":
                rows = pixels[:, :: -(-length // COLUMNS)]
                first, *others = (contact_sheet(pixels[:, frame]) for frame in range(length))
                animation = {"save_all": True, "append_images": others, "duration": FRAME_MS, "loop": 0, "quality": 90}
                write_image(first, path.with_suffix(".webp"), **animation)
            write_image(contact_sheet(*rows), path)
            self.console.print(f"step {trainer.step:>6} samples: {path}", highlight=False)


def _spread(labels: Sequence[int]) -> list[int]:
    places = np.linspace(0, len(labels) - 1, min(MAX_CLASSES, len(labels))).round().astype(int)
    return [labels[place] for place in places]
