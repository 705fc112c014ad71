"""Pixels at the edge of the model: ranges, padding and patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.geometry import Geometry
from model.tokenizer.config import TokenizerConfig


class PixelError(ValueError):
    """Pixels of a shape, type or range that the model does not take."""


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_pixels(pixels: Tensor, may_be_empty: bool = False) -> None:
    """Refuse anything but uint8 (B, T, H, W, 3), or floats of that shape in [-0.5, 0.5].

    Args:
        pixels: what is checked.
        may_be_empty: whether T may be 0, as at the end of a stream.

    Raises:
        PixelError: with the shape, type or range that was given.
    """
    sizes = [size for axis, size in enumerate(pixels.shape) if axis != 1 or not may_be_empty]
    if pixels.dim() != 5 or pixels.shape[-1] != 3 or 0 in sizes:
        raise PixelError(f"Pixels must have shape (B, T, H, W, 3), none of them 0, not {tuple(pixels.shape)}.")
    if pixels.dtype == torch.uint8 or pixels.shape[1] == 0:
        return
    if pixels.dtype not in FLOATS:
        raise PixelError(f"Pixels must be uint8, or floats in [-0.5, 0.5], not {pixels.dtype}.")
    low, high = pixels.aminmax()
    if not (low >= -0.5 and high <= 0.5):
        raise PixelError(
            f"Float pixels must be in [-0.5, 0.5], not [{low:.4g}, {high:.4g}]; uint8 leaves scaling to the model."
        )


def to_float(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert uint8 in [0, 255] to floats in [-0.5, 0.5]; floats keep their values."""
    if pixels.dtype == torch.uint8:
        return (pixels.to(torch.float32) / 255 - 0.5).to(dtype)
    return pixels.to(dtype)


def to_uint8(pixels: Tensor) -> Tensor:
    """Round floats around [-0.5, 0.5] to the nearest uint8 in [0, 255]."""
    return ((pixels.float() + 0.5) * 255).round_().clamp_(0, 255).to(torch.uint8)


def pad_to(pixels: Tensor, axis: int, size: int) -> Tensor:
    """Repeat the last slice along `axis` until it has `size` of them."""
    have = pixels.shape[axis]
    if have == size:
        return pixels
    index = torch.arange(size, device=pixels.device).clamp_(max=have - 1)
    return pixels.index_select(axis, index)


def pad_space(pixels: Tensor, geometry: Geometry) -> Tensor:
    """Pad height and width of (B, T, H, W, 3) at the bottom and right to multiples of the patch."""
    height, width = pixels.shape[2:4]
    _, height, width = geometry.padded((1, height, width))
    return pad_to(pad_to(pixels, 2, height), 3, width)


def pad_clip(pixels: Tensor, geometry: Geometry) -> Tensor:
    """Pad whole clips (B, T, H, W, 3) at the end, the bottom and the right to what a latent grid covers."""
    frames, height, width = pixels.shape[1:4]
    return pad_to(pad_space(pixels, geometry), 1, geometry.padded((frames, height, width))[0])


class _Embed(nn.Module):
    """Patch vectors to tokens: LayerNorm (where the model has it), Linear, LayerNorm (docs/model.md, Tokenizer 1)."""

    def __init__(self, values: int, width: int, norm: bool) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(values) if norm else nn.Identity()
        self.proj = nn.Linear(values, width)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, patches: Tensor) -> Tensor:
        return self.norm_out(self.proj(self.norm_in(patches)))


class PatchEmbed(nn.Module):
    """Pixels to tokens; the first frame has weights of its own (section 3.1.1, Patchify)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.patch, self.frames = config.patch, config.temporal_patch
        values = 3 * config.patch**2
        self.first = _Embed(values, config.width, config.patch_norm)
        self.later = _Embed(values * config.temporal_patch, config.width, config.patch_norm)

    def _patches(self, pixels: Tensor, frames: int) -> Tensor:
        """Cut (B, T, H, W, 3) to (B, T/frames, h, w, 3*frames*p*p), each vector in order colour, frame, row, column."""
        p = self.patch
        x = pixels.unflatten(3, (-1, p)).unflatten(2, (-1, p)).unflatten(1, (-1, frames))
        return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(4)

    def forward(self, pixels: Tensor, starts: bool = True) -> Tensor:
        """Embed pixels.

        Args:
            pixels: float (B, T, H, W, 3), H and W multiples of the patch; T = 1 + k * temporal_patch where the clip
                starts here, else k * temporal_patch.
            starts: whether the first frame is that of the clip.

        Returns:
            (B, t, h, w, D).
        """
        parts = [self.first(self._patches(pixels[:, :1], 1))] if starts else []
        if pixels.shape[1] > len(parts):
            parts.append(self.later(self._patches(pixels[:, len(parts) :], self.frames)))
        return torch.cat(parts, dim=1)


class ToPixels(nn.Module):
    """Tokens to pixels by two linear layers without activation (section 3.1.1; docs/model.md, Tokenizer 9)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.patch, self.frames = config.patch, config.temporal_patch
        values = 3 * config.patch**2
        self.first = nn.Linear(config.width, values)
        self.later = nn.Linear(config.width, values * config.temporal_patch)

    def _unpatch(self, patches: Tensor, frames: int) -> Tensor:
        p = self.patch
        x = patches.unflatten(-1, (3, frames, p, p))  # (B, t, h, w, 3, frames, p, p)
        return x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(1, 2).flatten(2, 3).flatten(3, 4)

    def forward(self, tokens: Tensor, starts: bool = True) -> Tensor:
        """Decode tokens (B, t, h, w, D), the first frame's first where the clip starts here, to (B, T, H, W, 3)."""
        parts = [self._unpatch(self.first(tokens[:, :1]), 1)] if starts else []
        if tokens.shape[1] > len(parts):
            parts.append(self._unpatch(self.later(tokens[:, len(parts) :]), self.frames))
        return torch.cat(parts, dim=1)
