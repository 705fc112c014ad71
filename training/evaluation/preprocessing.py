"""Preprocessing of pixels for each metric network: pinned here, and recorded in every result."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.networks import efficientnet, i3d, inception


@dataclass(frozen=True)
class Preprocessing:
    """Resize to a square and scale.

    Args:
        side: pixels of the square.
        antialias: whether shrinking averages over all pixels that it covers.
        offset, scale: a value v in [0, 255] becomes (v - offset) / scale.
    """

    side: int
    antialias: bool
    offset: float
    scale: float

    def __call__(self, frames: Tensor) -> Tensor:
        """Convert uint8 frames (N, H, W, 3) to float32 (N, 3, side, side)."""
        x = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        size = (self.side, self.side)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=self.antialias)
        return (x - self.offset) / self.scale

    def __str__(self) -> str:
        antialias = "with" if self.antialias else "without"
        return (
            f"RGB in [0, 255], bilinear to {self.side}x{self.side} (corners not aligned, {antialias} antialiasing), "
            f"(value - {self.offset:g}) / {self.scale:g}"
        )


INCEPTION = Preprocessing(inception.SIDE, antialias=False, offset=127.5, scale=127.5)
I3D = Preprocessing(i3d.SIDE, antialias=False, offset=127.5, scale=127.5)
LITE = Preprocessing(efficientnet.SIDE, antialias=True, offset=127.0, scale=128.0)
