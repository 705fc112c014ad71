"""Launches of the positional convolution: grids and tiles. Imports triton."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.autotune.table import ProblemSize, TuningSpace, tuned_tile
from kernels.peg.reference import PegArgs
from kernels.peg.triton_kernels import peg_clip_kernel, peg_kernel, peg_weight_kernel
from kernels.runtime.pdl import pdl_options


@dataclass(frozen=True)
class WeightTile:
    """Columns, channels and warps of a program of the weight's gradient, and the number of programs."""

    columns: int
    channels: int
    warps: int
    programs: int


@dataclass(frozen=True)
class Tile:
    """The tile of one program of the convolution.

    Args:
        frames: largest clip whose sums all fit a thread's registers; longer clips use the loop over frames.
        rows, columns: positions in the registers of each thread.
        patches: blocks of `columns` next to each other.
        channels: of a program; its threads share patches x channels, two or four channels each.
        warps: of a program.
        registers: limit for a thread, or None; fewer registers let more programs run on a multiprocessor.
    """

    frames: int
    rows: int
    columns: int
    patches: int
    channels: int
    warps: int
    registers: int | None = None


# 64 channels are 128 contiguous bytes of bfloat16. Sums of 40 positions and 27 taps for 2 channels fit 128 registers,
# which allows four programs on a multiprocessor. Published order spills up to 20 registers, and up to 260 backward or
# on odd grids.
MAX_UNROLLED_FRAMES = 5
MAX_UNROLLED_SCRAMBLED_FRAMES = 3  # backward or on odd grids
IMAGE_TILE = Tile(frames=1, rows=4, columns=4, patches=4, channels=64, warps=4)
CLIP_TILE = Tile(frames=MAX_UNROLLED_FRAMES, rows=4, columns=2, patches=4, channels=64, warps=4, registers=128)
# The loop over frames takes 27 products a value; unrolling five frames takes a fifth fewer.
LONG_CLIP_TILE = Tile(frames=0, rows=4, columns=2, patches=4, channels=64, warps=4, registers=128)
SMALL_LONG_CLIP_TILE = Tile(frames=0, rows=2, columns=2, patches=4, channels=64, warps=4, registers=128)
MIN_PROGRAMS = 300  # fewer do not fill a GPU, so tiles are halved
IMAGE_WEIGHT_TILE = WeightTile(columns=16, channels=64, warps=4, programs=528)
CLIP_WEIGHT_TILE = WeightTile(columns=8, channels=64, warps=4, programs=396)


def peg(args: PegArgs, backward: bool = False) -> Tensor:
    """Run the convolution, or the gradient of its input if `backward`.

    Args:
        args: the operator's; if `backward`, the gradient of the output is in the place of x, and bias and past do not
            count.
        backward: reverse time and mirror the taps.

    Returns:
        Tensor: shape and dtype of `x`, contiguous.
    """
    x, weight, scrambled = args.x.contiguous(), args.weight.contiguous(), args.scrambled
    bias, past = (None, None) if backward else (args.bias, args.past)
    frames, height, width, channels = x.shape[1:]
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    tile = _choose(x, scrambled, backward)
    grid = _grid(x, tile)
    pointers = x, x if past is None else past.to(x.dtype).contiguous(), weight, weight if bias is None else bias, out
    sizes = _inverse(frames), height, width
    options = {
        "C": channels,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "PATCHES": tile.patches,
        "BLOCK_C": tile.channels,
        "EVEN": _is_even(x, tile),
        "LATER": 0 if args.causal else 1,
        "BACKWARD": backward,
        "CARRIED": past is not None,
        "SCRAMBLED": scrambled,
        "num_warps": tile.warps,
        "maxnreg": tile.registers,
    }
    with torch.cuda.device_of(x):
        if frames <= tile.frames:
            peg_kernel[grid](*pointers, *sizes, FRAMES=frames, **options, **pdl_options(x))
        else:
            peg_clip_kernel[grid](*pointers, frames, *sizes, **options, **pdl_options(x))
    return out


def peg_input_gradient(args: PegArgs) -> Tensor:
    """Return the gradient of the input from that of the output, which is in the place of x."""
    return peg(args, backward=True)


def _choose(x: Tensor, scrambled: bool, backward: bool) -> Tile:
    batch, frames, height, width, _ = x.shape
    rows = batch * frames * height * width
    if frames == 1:
        return tuned_tile("peg.image", x.dtype, rows, IMAGE_TILE)
    if frames <= (
        MAX_UNROLLED_SCRAMBLED_FRAMES if scrambled and (backward or not _is_even(x, CLIP_TILE)) else MAX_UNROLLED_FRAMES
    ):
        return tuned_tile("peg.clip", x.dtype, rows, CLIP_TILE)
    return SMALL_LONG_CLIP_TILE if math.prod(_grid(x, LONG_CLIP_TILE)) < MIN_PROGRAMS else LONG_CLIP_TILE


def _grid(x: Tensor, tile: Tile) -> tuple[int, int, int]:
    batch, _, height, width, channels = x.shape
    across = -(-width // (tile.columns * tile.patches))
    return across * -(-channels // tile.channels), -(-height // tile.rows), batch


def _is_even(x: Tensor, tile: Tile) -> bool:
    """Return whether tiles end where the grid and the channels end."""
    height, width, channels = x.shape[2:]
    return height % tile.rows == 0 and width % (tile.columns * tile.patches) == 0 and channels % tile.channels == 0


def _inverse(frames: int) -> int:
    """Return 2**32 / frames rounded up, as int32; the value for one frame is unused."""
    inverse = -(-(1 << 32) // frames) & 0xFFFFFFFF
    return inverse - (1 << 32) if inverse >> 31 else inverse


def peg_weight_gradient(grad: Tensor, args: PegArgs) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and bias, summed in two stages of fixed order for equal bits at every run.

    Args:
        grad (Tensor): shape (B, T, h, w, C), the gradient of the output.
        args: the operator's.

    Returns:
        tuple: float32, shapes (3, 3, 3, C) and (C,).
    """
    x, past = args.x, args.past
    grad = grad.contiguous()
    batch, frames, height, width, channels = grad.shape
    image = frames == 1 and past is None
    rows = batch * frames * height * width
    name, default = ("peg.weight_image", IMAGE_WEIGHT_TILE) if image else ("peg.weight_clip", CLIP_WEIGHT_TILE)
    tile = tuned_tile(name, grad.dtype, rows, default)
    source = x.contiguous() if past is None else torch.cat((past.to(x.dtype), x), dim=1)
    items = batch * height * -(-width // tile.columns)
    blocks = -(-channels // tile.channels)
    each = max(1, -(-items * blocks // tile.programs))
    programs = -(-items // each)
    partial = torch.empty((programs, 28, channels), dtype=torch.float32, device=x.device)
    if programs:
        with torch.cuda.device_of(x):
            peg_weight_kernel[(programs * blocks,)](
                source,
                grad,
                partial,
                frames,
                _inverse(frames),
                height,
                width,
                items,
                each,
                C=channels,
                BLOCK_X=tile.columns,
                BLOCK_C=tile.channels,
                LATER=0 if args.causal else 1,
                CARRIED=int(past is not None),
                IMAGE=image,
                SCRAMBLED=args.scrambled,
                num_warps=tile.warps,
            )
    if not image:
        sums = partial.sum(0)
        return sums[:27].view(3, 3, 3, channels), sums[27].clone()
    before = 2 if args.causal else 1
    weight = torch.zeros((3, 3, 3, channels), dtype=torch.float32, device=x.device)
    torch.sum(partial[:, :9], 0, out=weight[before].view(9, channels))
    return weight, partial[:, 27].sum(0)


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, PegArgs]:
    shape = (size.batch, size.frames, size.height, size.width, size.channels)
    x, weight = torch.randn(shape, device=device), torch.randn((3, 3, 3, size.channels), device=device) * 27**-0.5
    args = PegArgs(x.to(dtype), weight.to(dtype), torch.randn(size.channels, device=device, dtype=dtype))
    return torch.randn_like(args.x), args


TUNING_SPACES: tuple[TuningSpace[Any], ...] = (
    TuningSpace(
        "peg.image",
        tuple(
            Tile(1, *numbers) for numbers in ((4, 4, 4, 64, 4), (8, 4, 4, 64, 4), (4, 2, 4, 64, 4), (4, 4, 4, 128, 4))
        ),
        _draw,
        lambda grad, args: peg(args),
    ),
    TuningSpace(
        "peg.clip",
        (Tile(5, 4, 2, 4, 64, 4, 128), Tile(5, 2, 2, 4, 64, 4, 128), Tile(5, 4, 4, 4, 64, 4, 168)),
        _draw,
        lambda grad, args: peg(args),
    ),
    TuningSpace(
        "peg.weight_image",
        tuple(WeightTile(columns, 64, 4, programs) for columns in (8, 16) for programs in (264, 528, 1056)),
        _draw,
        peg_weight_gradient,
    ),
    TuningSpace(
        "peg.weight_clip",
        tuple(WeightTile(8, 64, 4, programs) for programs in (264, 396, 528, 792)),
        _draw,
        peg_weight_gradient,
    ),
)
