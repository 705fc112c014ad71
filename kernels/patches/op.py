"""Patchify and unpatchify as custom operators, without backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.patches.reference import PatchifyArgs, UnpatchifyArgs, clip_shape, patches_shape
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import DTYPES, triton_unsupported
from kernels.runtime.dispatch import Implementation

PATCH_SIDES = (4, 8, 16)  # rows of whole 4-byte words, and tiles that are powers of two
PATCH_FRAMES = (1, 2, 4, 8)

patchify = launch_op("patches.patchify", PatchifyArgs)
unpatchify = launch_op("patches.unpatchify", UnpatchifyArgs)


@patchify.register_fake
def _(pixels: Tensor, patch: int, frames: int, first: int, dtype: torch.dtype, *args: Any) -> Tensor:
    return torch.empty(patches_shape(pixels, patch, frames, first), dtype=dtype, device=pixels.device)


@unpatchify.register_fake
def _(first: Tensor, later: Tensor | None, patch: int, frames: int, *biases: Any) -> Tensor:
    return torch.empty(clip_shape(first, later, patch, frames), dtype=torch.uint8, device=first.device)


def _patchify_unsupported(args: PatchifyArgs) -> str | None:
    if args.dtype not in DTYPES:
        return f"{args.dtype} must be one of {', '.join(map(str, DTYPES))}"
    return _unsupported(args.patch, args.frames) or triton_unsupported(args.pixels, dtypes=(torch.uint8,))


def _unpatchify_unsupported(args: UnpatchifyArgs) -> str | None:
    tensors = args.first, args.later, args.first_bias, args.later_bias
    return _unsupported(args.patch, args.frames) or triton_unsupported(*tensors, differentiable=False)


def _unsupported(patch: int, frames: int) -> str | None:
    if patch not in PATCH_SIDES or frames not in PATCH_FRAMES:
        return f"patch={patch} must be one of {PATCH_SIDES} and frames={frames} one of {PATCH_FRAMES}"
    return None


PATCHIFY = Implementation.of_op(patchify, _patchify_unsupported)
UNPATCHIFY = Implementation.of_op(unpatchify, _unpatchify_unsupported)
