"""Validation of a run at every checkpoint: metrics, images and animations."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from model.metrics.psnr import psnr
from training.data.loaders.batch import BatchSpec, Loader
from training.data.shards import INFO_FILE, open_set
from training.pictures import contact_sheet, write_animation, write_image
from training.recipes import Stage
from training.schedule import batch_shapes
from training.tokenizer.step import TrainingStep
from training.trainer import Trainer

MAX_ITEMS = {"images": 24, "clips": 6}  # of each set, evenly spread
COLUMNS = 8
ANIMATED_CLIPS = 4
MAX_ITEM_PIXELS = 640_000  # larger items would make every checkpoint wait


def validation_sets(data: Path, loader: Loader, stages: tuple[Stage, ...]) -> dict[str, Tensor]:
    """Return the validation data of a run: held-out sets where the data has any, else the first items of the loader.

    Args:
        data: folder of the data.
        loader: of the run.
        stages: whose sizes are drawn.

    Returns:
        uint8 (N, T, H, W, 3) by name, on the CPU.

    Raises:
        TrainingError: a held-out set is damaged, or the loader cannot draw.
    """
    held_out = [open_set(path.parent) for path in sorted((data / "held-out").glob(f"*/{INFO_FILE}"))]
    if small := [one for one in held_out if one.info.frames * one.info.height * one.info.width <= MAX_ITEM_PIXELS]:
        return {one.info.name: _spread(one.pixels()) for one in small}
    largest: dict[str, BatchSpec] = {}
    for stage in stages:
        for batch in batch_shapes(stage):
            if batch.kind not in largest or batch.side > largest[batch.kind].side:
                largest[batch.kind] = batch
    drawn = zip(largest, loader.stream(list(largest.values())), strict=True)
    return {f"first {kind} of the data": _spread(pixels.cpu()) for kind, pixels in drawn}


class Validator:
    """Called by the trainer after a checkpoint: reconstructs a few items with the averaged weights.

    Args:
        sets: uint8 (N, T, H, W, 3) by name.
        console: for the metrics.
    """

    def __init__(self, sets: dict[str, Tensor], console: Console) -> None:
        self.sets, self.console = sets, console

    @torch.inference_mode()
    def __call__(self, trainer: Trainer) -> None:
        """Measure, print, and write originals over reconstructions, clips also as animations."""
        assert isinstance(trainer.train_step, TrainingStep)
        ema = trainer.train_step.state.ema
        metrics, step = {}, trainer.step
        for name, pixels in self.sets.items():
            parts = [ema.reconstruct(part.to(trainer.device)).cpu() for part in pixels.split(4)]
            pair = pixels, torch.cat(parts)
            metrics[name] = float(psnr(*pair).mean())
            path = trainer.out / "samples" / f"{step:07d}-{name.replace(' ', '-')}.png"
            frames = pixels.shape[1]
            rows = [x[:, 0] if frames == 1 else x[len(x) // 2, :: -(-frames // COLUMNS)] for x in pair]
            write_image(contact_sheet(*(row[:COLUMNS].numpy() for row in rows)), path)
            if frames > 1:
                sheets = (contact_sheet(*(x[:ANIMATED_CLIPS, t].numpy() for x in pair)) for t in range(frames))
                write_animation(sheets, path.with_suffix(".webp"))
        listed = ", ".join(f"{name} {value:.2f} dB" for name, value in metrics.items())
        self.console.print(f"step {step:>6} validation: {listed}", highlight=False)
        if trainer.metrics_logger is not None:
            trainer.metrics_logger.log_scalars("validation", metrics, step)


def _spread(pixels: Tensor) -> Tensor:
    most = MAX_ITEMS["images" if pixels.shape[1] == 1 else "clips"]
    return pixels[:: -(-len(pixels) // most)]
