"""Launches of patchify and unpatchify: grids and tiles. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.autotune.table import ProblemSize, TuningSpace, tuned_tile
from kernels.patches.reference import COLOURS, EPS, PatchifyArgs, UnpatchifyArgs, clip_shape, patches_shape
from kernels.patches.triton_kernels import patchify_kernel, unpatchify_kernel
from kernels.runtime.pdl import pdl_options


@dataclass(frozen=True)
class Tile:
    """Values of one colour (a power of two) and warps of a program."""

    values: int
    warps: int


SMALL_MAX_VALUES = 2**20  # smaller programs up to here, to occupy every multiprocessor
SMALL_TILE = Tile(values=512, warps=4)
LARGE_TILE = Tile(values=2048, warps=4)


def choose(values: int) -> Tile:
    """Return the default tile for a number of values of one colour."""
    return SMALL_TILE if values <= SMALL_MAX_VALUES else LARGE_TILE


def patchify(args: PatchifyArgs) -> Tensor:
    """Run the operator."""
    pixels, patch, frames, first, dtype, normed = args
    shape = patches_shape(pixels, patch, frames, first)
    out = torch.empty(shape, dtype=dtype, device=pixels.device)
    if out.numel():
        pixels = _whole_frames(pixels[:, first:])
        values = out.numel() // COLOURS
        tile = tuned_tile("patchify", dtype, values, choose(values))
        columns, programs = _share(shape, patch, frames, tile)
        with torch.cuda.device_of(pixels):
            patchify_kernel[(programs,)](
                pixels, out, *shape[1:4], pixels.stride(0) // 4, EPS,
                NORMED=normed, FRAMES=frames, SIDE=patch, COLUMNS=columns, num_warps=tile.warps, **pdl_options(out),
            )  # fmt: skip
    return out


def unpatchify(args: UnpatchifyArgs) -> Tensor:
    """Run the operator."""
    first, later, patch, frames, first_bias, later_bias = args
    shape = clip_shape(first, later, patch, frames)
    out = torch.empty(shape, dtype=torch.uint8, device=first.device)
    for patches, bias, begin, depth in ((first, first_bias, 0, 1), (later, later_bias, 1, frames)):
        if patches is None or not patches.numel():
            continue
        values = patches.numel() // COLOURS
        tile = tuned_tile("unpatchify", patches.dtype, values, choose(values))
        columns, programs = _share(tuple(patches.shape), patch, depth, tile)
        with torch.cuda.device_of(out):
            unpatchify_kernel[(programs,)](
                patches.contiguous(), out if bias is None else bias.contiguous(), out,
                *patches.shape[1:4], begin, shape[1],
                BIASED=bias is not None, FRAMES=depth, SIDE=patch, COLUMNS=columns, num_warps=tile.warps,
                **pdl_options(out),
            )  # fmt: skip
    return out


def _share(shape: tuple[int, ...], patch: int, frames: int, tile: Tile) -> tuple[int, int]:
    """Return the patches of a program, at most one row, and the number of programs."""
    batch, times, down, across, _ = shape
    columns = min(max(1, tile.values // (frames * patch**2)), 1 << (across - 1).bit_length())
    return columns, batch * times * down * -(-across // columns)


def _whole_frames(pixels: Tensor) -> Tensor:
    """Return pixels (B, T, H, W, 3), copied unless each item's frames are contiguous from a 4-byte boundary."""
    _, length, height, width, colours = pixels.shape
    within = (width * colours, colours, 1)
    frame = pixels.stride(1) if length > 1 else height * width * colours
    contiguous = pixels.stride()[2:] == within and frame == height * width * colours
    word_aligned = pixels.stride(0) % 4 == 0 and pixels.storage_offset() % 4 == 0
    return pixels if contiguous and word_aligned else pixels.clone(memory_format=torch.contiguous_format)


def _draw_patchify(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[PatchifyArgs]:
    """Draw the first frames of images, or the later frames of clips."""
    first, frames = (0, 1) if size.frames == 1 else (1, size.temporal_patch)
    shape = (size.batch, 1 + (size.frames - 1) * size.temporal_patch, size.height * size.patch, size.width * size.patch)
    pixels = torch.randint(256, (*shape, COLOURS), device=device, dtype=torch.uint8)
    return (PatchifyArgs(pixels, size.patch, frames, first, dtype, normed=True),)


def _draw_unpatchify(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[UnpatchifyArgs] | None:
    if size.frames != 1:  # a clip takes two launches, which look up their tiles as images do
        return None
    first = torch.randn((size.batch, 1, size.height, size.width, COLOURS * size.patch**2), device=device, dtype=dtype)
    return (UnpatchifyArgs(first, None, size.patch, size.temporal_patch),)


CANDIDATES = tuple(Tile(values, warps) for values in (512, 1024, 2048, 4096) for warps in (4, 8))
TUNING_SPACES = (
    TuningSpace("patchify", CANDIDATES, _draw_patchify, patchify),
    TuningSpace("unpatchify", CANDIDATES, _draw_unpatchify, unpatchify),
)
