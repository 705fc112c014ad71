"""How a run does on data that it is not trained on: figures and pictures at every checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from model.quality import psnr
from training.data import open_set
from training.evaluate import HELD_OUT
from training.pictures import rows_of, write
from training.trainer import Trainer

WATCHED = ("photographs, 128x128", "unseen game levels, 17x128x128")
ITEMS = 24  # of each set, evenly spread
SHOWN = 8  # pictures in a row


class Watch:
    """Called by the trainer after a checkpoint: reconstructs a few held-out items with the averaged weights.

    Args:
        data: folder of the data.
        console: where the figures are printed.

    Raises:
        TrainingError: a held-out set is missing or damaged.
    """

    def __init__(self, data: Path, console: Console) -> None:
        self.console = console
        self.sets: dict[str, Tensor] = {}
        for title in WATCHED:
            pixels = open_set(data / HELD_OUT[title]).pixels()
            self.sets[title] = pixels[:: max(1, len(pixels) // ITEMS)][:ITEMS]

    @torch.inference_mode()
    def __call__(self, trainer: Trainer) -> None:
        """Measure, print, draw."""
        trainer.average.eval()
        rows, figures = [], {}
        for title, pixels in self.sets.items():
            parts = [trainer.average.reconstruct(part.to(trainer.device)).cpu() for part in pixels.split(4)]
            out = torch.cat(parts)
            figures[title] = float(psnr(pixels, out).clamp_max(100).mean())
            frames = pixels.shape[1]
            for whole in (pixels, out):
                shown = whole[:, 0] if frames == 1 else whole[len(whole) // 2, :: max(1, frames // SHOWN)]
                rows.append(shown[:SHOWN].numpy())
        told = ", ".join(f"{title} {value:.2f} dB" for title, value in figures.items())
        self.console.print(f"step {trainer.step:>6} held out: {told}", highlight=False)
        trainer.journal.scalars("held-out", figures, trainer.step)
        write(rows_of(*rows), trainer.out / "samples" / f"{trainer.step:07d}.png")
