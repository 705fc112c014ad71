"""Patchify and unpatchify against the reference, eager and compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.kernels.operation import Case, Inputs, Make, Operation, delayed, normal, on_grids
from kernels.patches import patchify, unpatchify

COMPILED = ("image 256, B 16", "clip 17x256, B 8")


@delayed
def _clip(
    generator: torch.Generator, batch: int, length: int, height: int, width: int, patch: int = 8, frames: int = 4,
    first: int = 1, normed: bool = True,
) -> Inputs:  # fmt: skip
    shape = (batch, length, height, width, 3)
    pixels = torch.randint(0, 256, shape, generator=generator, device=generator.device, dtype=torch.uint8)
    # the dtype is that of the check
    sizes = {"patch": patch, "frames": frames, "first": first, "dtype": torch.float32, "normed": normed}
    return {"pixels": pixels} | sizes


def _clip_of(batch: int, frames: int, height: int, width: int) -> Make:
    """Draw the pixels of a grid: images, or the later frames of clips."""
    depth, first = (1, 0) if frames == 1 else (4, 1)
    return _clip(batch, 1 + 4 * (frames - 1), 8 * height, 8 * width, frames=depth, first=first)


@delayed
def _vectors(
    generator: torch.Generator, batch: int, later: int, down: int, across: int, patch: int = 8, frames: int = 4,
    spread: float = 0.3,
) -> Inputs:  # fmt: skip
    run = 3 * patch**2
    return {
        "first": spread * normal(generator, batch, 1, down, across, run),
        "later": spread * normal(generator, batch, later, down, across, run * frames) if later else None,
        "patch": patch,
        "frames": frames,
        "first_bias": normal(generator, run),
        "later_bias": normal(generator, run * frames) if later else None,
    }


def compare_bytes(inputs: Inputs, found: Tensor) -> tuple[list[str], str]:
    """Require every byte of the reference."""
    differ = int((found != UNPATCHIFY.reference(**inputs)).sum())
    return ([f"{differ} of {found.numel()} bytes differ"] if differ else []), ""


PATCHIFY = Operation(
    operator=patchify,
    checked=(
        Case("one patch", _clip(1, 1, 8, 8, frames=1, first=0)),
        Case("5 frames of 24x40", _clip(2, 5, 24, 40, normed=False)),
        Case("5 frames of 24x40, normed", _clip(2, 5, 24, 40)),
        Case("7 frames of 12x20, patch 4, 2 frames", _clip(1, 7, 12, 20, 4, 2, normed=False)),
        Case("7 frames of 12x20, patch 4, 2 frames, normed", _clip(1, 7, 12, 20, 4, 2)),
        Case("clip 17x128, B 2", _clip(2, 17, 128, 128)),
    ),
    timed=(
        *on_grids(_clip_of, compiled=COMPILED),
        Case("clip 17x256, B 8, no norm", _clip(8, 17, 256, 256, normed=False)),
    ),
    backends=("reference",),
)

UNPATCHIFY = Operation(
    operator=unpatchify,
    checked=(
        Case("one patch", _vectors(1, 0, 1, 1)),
        Case("image 24x40", _vectors(2, 0, 3, 5)),
        Case("9 frames of 24x40, far out of range", _vectors(2, 2, 3, 5, spread=3.0)),
        Case("7 frames of 12x20, patch 4, 2 frames", _vectors(1, 3, 3, 5, patch=4, frames=2)),
        Case("clip 17x128, B 2", _vectors(2, 4, 16, 16)),
    ),
    timed=on_grids(lambda batch, frames, *side: _vectors(batch, frames - 1, *side), compiled=COMPILED),
    backends=("reference",),
    compare=compare_bytes,
)
