"""Launches of the positional convolution's kernels: grids and tile sizes. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.peg.triton_kernels import peg_kernel, peg_weight_kernel


@dataclass(frozen=True)
class Tile:
    """What a program of the convolution owns: frames and rows in registers, columns x channels over its warps.

    Args:
        registers: the most that a thread may take, or None for what the compiler likes; fewer let more programs in.
    """

    frames: int
    rows: int
    columns: int
    channels: int
    warps: int
    registers: int | None = None


@dataclass(frozen=True)
class Share:
    """Columns and channels of a tile of the weight's gradient, warps, and how many programs share the work."""

    columns: int
    channels: int
    warps: int
    programs: int


# 128 contiguous bytes a row of bfloat16; 4 channels of a row stay in each thread, so that 5 frames x 2 rows of sums and
# 9 taps take 76 of 168 registers, which leaves three programs to a multiprocessor.
MOST_FRAMES = 5
IMAGE = Tile(frames=1, rows=4, columns=8, channels=64, warps=4)
CLIP = Tile(frames=MOST_FRAMES, rows=2, columns=8, channels=64, warps=4, registers=168)
IMAGE_WEIGHT = Share(columns=16, channels=64, warps=4, programs=1056)
CLIP_WEIGHT = Share(columns=8, channels=64, warps=4, programs=396)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor | None,
    causal: bool,
    published: bool,
    backward: bool = False,
    tile: Tile | None = None,
) -> Tensor:
    """Run the convolution, or with `backward` the gradient of its input.

    Args:
        x (Tensor): shape (B, T, h, w, C), the input or the gradient of the output.
        weight (Tensor): shape (3, 3, 3, C).
        bias (Tensor): shape (C,); None backward.
        past (Tensor): shape (B, 2, h, w, C), or None for zeros; None backward.
        causal, published (bool): as the operator's.
        backward (bool): whether time runs backwards and the taps are mirrored.
        tile (Tile): instead of the chosen one.

    Returns:
        Tensor: shape and dtype of `x`, contiguous.
    """
    x, weight = x.contiguous(), weight.contiguous()
    batch, frames, height, width, channels = x.shape
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    tile = tile or (IMAGE if frames == 1 else CLIP)
    block = min(tile.frames, frames)
    pieces = -(-height // tile.rows) * -(-width // tile.columns) * -(-frames // block) * -(-channels // tile.channels)
    with torch.cuda.device_of(x):
        peg_kernel[(batch * pieces,)](
            x,
            x if past is None else past.to(x.dtype).contiguous(),
            weight,
            weight if bias is None else bias,
            out,
            frames,
            height,
            width,
            C=channels,
            FRAMES=block,
            ROWS=tile.rows,
            BLOCK_X=tile.columns,
            BLOCK_C=tile.channels,
            LATER=0 if causal else 1,
            BACKWARD=backward,
            CARRIED=past is not None,
            WHOLE=block == frames,
            SCRAMBLED=frames if published and frames > 1 else 0,
            num_warps=tile.warps,
            **({} if tile.registers is None else {"maxnreg": tile.registers}),
        )
    return out


def weight_gradient(
    x: Tensor,
    grad: Tensor,
    past: Tensor | None,
    causal: bool,
    published: bool,
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum the gradients of weight and bias in two fixed stages, so that the same bits come at every run.

    Args:
        x, grad (Tensor): shape (B, T, h, w, C), the input and the gradient of the output.
        past (Tensor): shape (B, 2, h, w, C), or None for zeros.
        causal, published (bool): as the operator's.
        share (Share): instead of the chosen one.

    Returns:
        tuple: float32, shapes (3, 3, 3, C) and (C,).
    """
    grad = grad.contiguous()
    batch, frames, height, width, channels = grad.shape
    image = frames == 1 and past is None
    share = share or (IMAGE_WEIGHT if image else CLIP_WEIGHT)
    seen = x.contiguous() if past is None else torch.cat((past.to(x.dtype), x), dim=1)
    items = batch * height * -(-width // share.columns)
    blocks = -(-channels // share.channels)
    each = max(1, -(-items * blocks // share.programs))
    programs = -(-items // each)
    partial = torch.empty((programs, 28, channels), dtype=torch.float32, device=x.device)
    if programs:
        with torch.cuda.device_of(x):
            peg_weight_kernel[(programs * blocks,)](
                seen,
                grad,
                partial,
                frames,
                height,
                width,
                items,
                each,
                C=channels,
                BLOCK_X=share.columns,
                BLOCK_C=share.channels,
                LATER=0 if causal else 1,
                CARRIED=int(past is not None),
                IMAGE=image,
                SCRAMBLED=frames if published and frames > 1 else 0,
                num_warps=share.warps,
            )
    if not image:
        sums = partial.sum(0)
        return sums[:27].view(3, 3, 3, channels), sums[27].clone()
    before = 2 if causal else 1
    weight = torch.zeros((3, 3, 3, channels), dtype=torch.float32, device=x.device)
    torch.sum(partial[:, :9], 0, out=weight[before].view(9, channels))
    return weight, partial[:, 27].sum(0)
