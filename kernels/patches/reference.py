"""The definitions of patchify and unpatchify, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
COLOURS = 3


class PatchifyArgs(NamedTuple):
    """The arguments of `patchify`.

    Args:
        pixels (Tensor): uint8, shape (B, T, H, W, 3), H and W multiples of the patch.
        patch (int): p, height and width of a patch.
        frames (int): g, frames of a patch.
        first (int): the frame at which the first patch begins; T - first is a multiple of g.
        dtype (torch.dtype): of the result.
        normed (bool): apply a LayerNorm without weight and bias to each vector.
    """

    pixels: Tensor
    patch: int
    frames: int
    first: int
    dtype: torch.dtype
    normed: bool = False


def patches_shape(pixels: Tensor, patch: int, frames: int, first: int) -> tuple[int, int, int, int, int]:
    """Return the shape of a clip's patches, or raise ValueError."""
    if pixels.dtype != torch.uint8 or pixels.dim() != 5 or pixels.shape[-1] != COLOURS:
        raise ValueError(f"Pixels must be uint8 (B, T, H, W, 3), not {pixels.dtype} {tuple(pixels.shape)}.")
    batch, length, height, width, _ = pixels.shape
    if height % patch or width % patch:
        raise ValueError(f"Height {height} and width {width} must be multiples of the patch {patch}.")
    if not 0 <= first <= length or (length - first) % frames:
        raise ValueError(f"{length} frames from frame {first} on must be a multiple of {frames}.")
    return batch, (length - first) // frames, height // patch, width // patch, COLOURS * frames * patch**2


def patchify(args: PatchifyArgs) -> Tensor:
    """Cut a clip into patches of `frames` frames and scale its bytes to [-0.5, 0.5].

    Returns:
        Tensor: shape (B, (T - first) / g, H / p, W / p, 3 g p p), a vector ordered (colour, frame, row, column).

    Raises:
        ValueError: sizes that the patch does not divide, or pixels of another dtype or shape.
    """
    pixels, patch, frames, first, dtype, normed = args
    shape = patches_shape(pixels, patch, frames, first)
    x = pixels[:, first:].unflatten(3, (shape[3], patch)).unflatten(2, (shape[2], patch))
    x = x.unflatten(1, (shape[1], frames)).permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(shape)
    x = x.to(torch.float64 if dtype == torch.float64 else torch.float32) / 255 - 0.5
    return (F.layer_norm(x, x.shape[-1:], eps=EPS) if normed else x).to(dtype)


class UnpatchifyArgs(NamedTuple):
    """The arguments of `unpatchify`.

    Args:
        first (Tensor): the first frame's vectors, any float dtype, shape (B, 1, h, w, 3 p p).
        later (Tensor): the later frames' vectors, shape (B, t, h, w, 3 g p p), or None. Both are ordered (colour,
            frame, row, column).
        patch (int): p, height and width of a patch.
        frames (int): g, frames of a later patch.
        first_bias, later_bias (Tensor): added to the vectors of each part in float32, or None.
    """

    first: Tensor
    later: Tensor | None
    patch: int
    frames: int
    first_bias: Tensor | None = None
    later_bias: Tensor | None = None


def clip_shape(first: Tensor, later: Tensor | None, patch: int, frames: int) -> tuple[int, int, int, int, int]:
    """Return the shape of the clip that patches give, or raise ValueError."""
    values = COLOURS * patch**2
    if first.dim() != 5 or first.shape[1] != 1 or first.shape[-1] != values:
        raise ValueError(f"The first frame's patches must be (B, 1, h, w, {values}), not {tuple(first.shape)}.")
    batch, _, down, across, _ = first.shape
    length = 1
    if later is not None:
        wanted = (batch, later.shape[1], down, across, values * frames)
        if later.shape != wanted or later.dtype != first.dtype:
            raise ValueError(f"Later patches must be {first.dtype} {wanted}, not {later.dtype} {tuple(later.shape)}.")
        length += frames * later.shape[1]
    return batch, length, down * patch, across * patch, COLOURS


def unpatchify(args: UnpatchifyArgs) -> Tensor:
    """Assemble patches to a clip of bytes: round(255 (v + 0.5)), half to even, clamped to [0, 255].

    Returns:
        Tensor: uint8, shape (B, 1 + t g, h p, w p, 3).

    Raises:
        ValueError: vectors of another length, or parts of different shape or dtype.
    """
    first, later, patch, frames, first_bias, later_bias = args
    clip_shape(first, later, patch, frames)
    parts = [_clip(first, patch, 1, first_bias)]
    if later is not None:
        parts.append(_clip(later, patch, frames, later_bias))
    return torch.cat(parts, dim=1)


def _clip(patches: Tensor, patch: int, frames: int, bias: Tensor | None) -> Tensor:
    wide = patches if patches.dtype == torch.float64 else patches.float()
    if bias is not None:
        wide = wide + bias.to(wide.dtype)
    pixels = ((wide + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    x = pixels.unflatten(-1, (COLOURS, frames, patch, patch))  # (B, t, h, w, 3, frames, p, p)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(1, 2).flatten(2, 3).flatten(3, 4)
