"""Validation of a run at every checkpoint: metrics, pictures and moving pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from model.metrics.psnr import psnr
from training.data.loaders.draw import Draw, Feed
from training.data.shards import INFO_FILE, open_set
from training.pictures import rows_of, write
from training.recipes import Stage
from training.schedule import every_draw
from training.trainer import Trainer

ITEMS = {"images": 24, "clips": 6}  # of each set, evenly spread
SHOWN = 8  # pictures in a row
MOVING = 4  # clips beside each other
FRAME_MS = 125
LARGEST = 640_000  # pixels of an item in a set that is watched: more would make every checkpoint wait


def watched_sets(data: Path, feed: Feed, stages: tuple[Stage, ...]) -> dict[str, Tensor]:
    """The validation data of a run: held-out sets where the data has any, else the first items of the loader.

    Args:
        data: folder of the data.
        feed: of the run.
        stages: whose sizes are drawn.

    Returns:
        uint8 (N, T, H, W, 3) by name, on the CPU.

    Raises:
        TrainingError: a held-out set is damaged, or the feed cannot draw.
    """
    held = [open_set(path.parent) for path in sorted((data / "held-out").glob(f"*/{INFO_FILE}"))]
    sizes = [one.info.frames * one.info.height * one.info.width for one in held]
    if watched := [one for one, size in zip(held, sizes, strict=True) if size <= LARGEST]:
        return {one.info.name: _spread(one.pixels()) for one in watched}
    largest: dict[str, Draw] = {}
    for stage in stages:
        for draw in every_draw(stage):
            if draw.kind not in largest or draw.side > largest[draw.kind].side:
                largest[draw.kind] = draw
    drawn = zip(largest, feed.stream(list(largest.values())), strict=True)
    return {f"first {kind} of the data": _spread(pixels.cpu()) for kind, pixels in drawn}


class Watch:
    """Called by the trainer after a checkpoint: reconstructs a few items with the averaged weights.

    Args:
        sets: uint8 (N, T, H, W, 3) by name.
        console: where the figures are printed.
    """

    def __init__(self, sets: dict[str, Tensor], console: Console) -> None:
        self.sets, self.console = sets, console

    @torch.inference_mode()
    def __call__(self, trainer: Trainer) -> None:
        """Measure, print, draw: originals over reconstructions, clips also moving."""
        average, folder = trainer.learner.average, trainer.out / "samples"
        figures = {}
        for name, pixels in self.sets.items():
            parts = [average.reconstruct(part.to(trainer.device)).cpu() for part in pixels.split(4)]
            out = torch.cat(parts)
            figures[name] = float(psnr(pixels, out).mean())
            stem = f"{trainer.step:07d}-{name.replace(' ', '-')}"
            frames = pixels.shape[1]
            rows = [x[:, 0] if frames == 1 else x[len(x) // 2, :: -(-frames // SHOWN)] for x in (pixels, out)]
            write(rows_of(*(row[:SHOWN].numpy() for row in rows)), folder / f"{stem}.png")
            if frames > 1:
                _write_moving(pixels[:MOVING].numpy(), out[:MOVING].numpy(), folder / f"{stem}.webp")
        told = ", ".join(f"{name} {value:.2f} dB" for name, value in figures.items())
        self.console.print(f"step {trainer.step:>6} watched: {told}", highlight=False)
        if trainer.journal is not None:
            trainer.journal.scalars("watched", figures, trainer.step)


def _spread(pixels: Tensor) -> Tensor:
    most = ITEMS["images" if pixels.shape[1] == 1 else "clips"]
    return pixels[:: -(-len(pixels) // most)]


def _write_moving(originals: NDArray[np.uint8], restored: NDArray[np.uint8], path: Path) -> None:
    """Clips over their reconstructions (N, T, H, W, 3) as an animation."""
    frames = [rows_of(originals[:, time], restored[:, time]) for time in range(originals.shape[1])]
    first, *others = frames
    write(first, path, save_all=True, append_images=others, duration=FRAME_MS, loop=0, quality=90)
