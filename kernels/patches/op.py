"""The way between bytes and patches as torch operators: what the compiler and CUDA graphs see; without gradients.

The launches are imported when they are first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.patches.reference import clip_shape, patches_shape
from kernels.runtime.device import DTYPES, triton_unsupported

SIDES = (4, 8, 16)  # whole words of memory, and tiles that are powers of two
DEPTHS = (1, 2, 4, 8)


def patchify_unsupported(
    pixels: Tensor, patch: int, frames: int, first: int, dtype: torch.dtype, normed: bool = False
) -> str | None:
    """Say why the kernel cannot run this call, or None."""
    if (reason := triton_unsupported(pixels, dtypes=(torch.uint8,)) or _unsupported(patch, frames)) is not None:
        return reason
    return None if dtype in DTYPES else f"{dtype} is not among {DTYPES}"


def unpatchify_unsupported(
    first: Tensor,
    later: Tensor | None,
    patch: int,
    frames: int,
    first_bias: Tensor | None = None,
    later_bias: Tensor | None = None,
) -> str | None:
    """Say why the kernel cannot run this call, or None."""
    if (reason := triton_unsupported(first, later, first_bias, later_bias) or _unsupported(patch, frames)) is not None:
        return reason
    if torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (first, later, first_bias, later_bias)
    ):
        return "bytes give no gradients"
    return None


def _unsupported(patch: int, frames: int) -> str | None:
    if patch not in SIDES or frames not in DEPTHS:
        return f"patches of {frames} x {patch} x {patch}; sides are among {SIDES}, frames among {DEPTHS}"
    return None


@torch.library.custom_op("omnitok::patchify", mutates_args=())
def patchify(pixels: Tensor, patch: int, frames: int, first: int, dtype: torch.dtype, normed: bool = False) -> Tensor:
    from kernels.patches import launch

    return launch.patchify(pixels, patch, frames, first, dtype, normed)


@patchify.register_fake
def _(pixels: Tensor, patch: int, frames: int, first: int, dtype: torch.dtype, normed: bool = False) -> Tensor:
    return torch.empty(patches_shape(pixels, patch, frames, first), dtype=dtype, device=pixels.device)


@torch.library.custom_op("omnitok::unpatchify", mutates_args=())
def unpatchify(
    first: Tensor,
    later: Tensor | None,
    patch: int,
    frames: int,
    first_bias: Tensor | None = None,
    later_bias: Tensor | None = None,
) -> Tensor:
    from kernels.patches import launch

    return launch.unpatchify(first, later, patch, frames, first_bias, later_bias)


@unpatchify.register_fake
def _(
    first: Tensor,
    later: Tensor | None,
    patch: int,
    frames: int,
    first_bias: Tensor | None = None,
    later_bias: Tensor | None = None,
) -> Tensor:
    return torch.empty(clip_shape(first, later, patch, frames), dtype=torch.uint8, device=first.device)
