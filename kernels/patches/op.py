"""Patchify and unpatchify as custom operators, without backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.patches.reference import clip_shape, patches_shape
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import DTYPES, triton_unsupported

PATCH_SIDES = (4, 8, 16)  # rows of whole 4-byte words, and tiles that are powers of two
PATCH_FRAMES = (1, 2, 4, 8)

patchify = launch_op(
    "patchify",
    "(Tensor pixels, int patch, int frames, int first, ScalarType dtype, bool normed=False) -> Tensor",
    "patches.patchify",
)
unpatchify = launch_op(
    "unpatchify",
    "(Tensor first, Tensor? later, int patch, int frames, Tensor? first_bias=None, Tensor? later_bias=None) -> Tensor",
    "patches.unpatchify",
)


@patchify.register_fake
def _(pixels: Tensor, patch: int, frames: int, first: int, dtype: torch.dtype, normed: bool = False) -> Tensor:
    return torch.empty(patches_shape(pixels, patch, frames, first), dtype=dtype, device=pixels.device)


@unpatchify.register_fake
def _(first: Tensor, later: Tensor | None, patch: int, frames: int, *biases: Any) -> Tensor:
    return torch.empty(clip_shape(first, later, patch, frames), dtype=torch.uint8, device=first.device)


def patchify_unsupported(
    pixels: Tensor, patch: int, frames: int, first: int, dtype: torch.dtype, normed: bool = False
) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    if dtype not in DTYPES:
        return f"{dtype} must be one of {', '.join(map(str, DTYPES))}"
    return _unsupported(patch, frames) or triton_unsupported(pixels, dtypes=(torch.uint8,))


def unpatchify_unsupported(
    first: Tensor,
    later: Tensor | None,
    patch: int,
    frames: int,
    first_bias: Tensor | None = None,
    later_bias: Tensor | None = None,
) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    reason = _unsupported(patch, frames)
    return reason or triton_unsupported(first, later, first_bias, later_bias, differentiable=False)


def _unsupported(patch: int, frames: int) -> str | None:
    if patch not in PATCH_SIDES or frames not in PATCH_FRAMES:
        return f"patch={patch} must be one of {PATCH_SIDES} and frames={frames} one of {PATCH_FRAMES}"
    return None
