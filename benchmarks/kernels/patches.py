"""Patchify and unpatchify against the reference, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.kernels.accuracy import MAX_ERROR_RATIO, RMS_TOL, ROUNDING_TOL
from benchmarks.kernels.operation import Case, Inputs, Operation, normal, on_grids
from kernels.patches import patchify, unpatchify

COMPILED = ("image 256, B 16", "clip 17x256, B 8")


def _clip(
    batch: int, length: int, height: int, width: int, patch: int = 8, frames: int = 4, first: int = 1,
    dtype: torch.dtype = torch.bfloat16, normed: bool = True,
) -> Callable[[torch.Generator], Inputs]:  # fmt: skip
    def make(generator: torch.Generator) -> Inputs:
        shape = (batch, length, height, width, 3)
        pixels = torch.randint(0, 256, shape, generator=generator, device=generator.device, dtype=torch.uint8)
        return {
            "pixels": pixels, "patch": patch, "frames": frames, "first": first, "dtype": dtype, "normed": normed,
        }  # fmt: skip

    return make


def _clip_of(batch: int, frames: int, height: int, width: int) -> Callable[[torch.Generator], Inputs]:
    """Draw the pixels of a grid: images, or the later frames of clips."""
    depth, first = (1, 0) if frames == 1 else (4, 1)
    return _clip(batch, 1 + 4 * (frames - 1), 8 * height, 8 * width, frames=depth, first=first)


def _vectors(
    batch: int, later: int, down: int, across: int, patch: int = 8, frames: int = 4, spread: float = 0.3
) -> Callable[[torch.Generator], Inputs]:
    def make(generator: torch.Generator) -> Inputs:
        run = 3 * patch**2
        return {
            "first": spread * normal(generator, batch, 1, down, across, run),
            "later": spread * normal(generator, batch, later, down, across, run * frames) if later else None,
            "patch": patch,
            "frames": frames,
            "first_bias": normal(generator, run),
            "later_bias": normal(generator, run * frames) if later else None,
        }

    return make


def compare_vectors(inputs: Inputs, found: Tensor) -> tuple[list[str], str]:
    """Compare with float64 under the bounds of the other operators."""
    right = PATCHIFY.reference(**inputs | {"dtype": torch.float64})
    in_torch = PATCHIFY.reference(**inputs)
    error = (found.double() - right).abs().max().item()
    allowed = MAX_ERROR_RATIO * (in_torch.double() - right).abs().max().item()
    allowed += ROUNDING_TOL[inputs["dtype"]] * right.abs().max().item()
    rms = ((found.double() - right).norm() / right.norm()).item()
    failures = [] if error <= allowed else [f"largest error {error:.3g}, allowed {allowed:.3g}"]
    return failures + ([] if rms < RMS_TOL else [f"RMS ratio {rms:.3g}"]), ""


def compare_bytes(inputs: Inputs, found: Tensor) -> tuple[list[str], str]:
    """Require every byte of the reference."""
    differ = int((found != UNPATCHIFY.reference(**inputs)).sum())
    return ([f"{differ} of {found.numel()} bytes differ"] if differ else []), ""


PATCHIFY = Operation(
    operator=patchify,
    checked=(
        *(
            Case(f"{name}, {str(dtype).removeprefix('torch.')}{', normed' * normed}", _clip(*sizes, dtype, normed))
            for dtype in ROUNDING_TOL
            for normed in (False, True)
            for name, sizes in (
                ("one patch", (1, 1, 8, 8, 8, 1, 0)),
                ("5 frames of 24x40", (2, 5, 24, 40, 8, 4, 1)),
                ("7 frames of 12x20, patch 4, 2 frames", (1, 7, 12, 20, 4, 2, 1)),
            )
        ),
        Case("clip 17x128, B 2", _clip(2, 17, 128, 128)),
    ),
    timed=(
        *on_grids(_clip_of, compiled=COMPILED),
        Case("clip 17x256, B 8, no norm", _clip(8, 17, 256, 256, normed=False)),
    ),
    backends=("reference",),
    compare=compare_vectors,
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
    timed=on_grids(
        lambda batch, frames, *side: _vectors(batch, frames - 1, *side),
        compiled=COMPILED,
    ),
    backends=("reference",),
    compare=compare_bytes,
)
