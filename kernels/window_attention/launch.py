"""Launches of window attention: grids and tiles. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-untyped]

from kernels.autotune.table import ProblemSize, TuningSpace, tuned_tile
from kernels.runtime.device import aligned
from kernels.runtime.pdl import pdl_options
from kernels.window_attention.reference import WindowArgs
from kernels.window_attention.triton_kernels import (
    window_attention_bwd_kernel,
    window_attention_fold_kernel,
    window_attention_fwd_kernel,
)


@dataclass(frozen=True)
class Tile:
    """The split of windows among programs.

    Args:
        programs: upper limit over all heads; each program loops over consecutive windows of one head.
        warps: of a program.
        stages: windows in flight in a program.
        descriptors: forward only: use the tensor memory accelerator (compute capability 9.0 and later), if side and
            head_dim are powers of two.
    """

    programs: int
    warps: int
    stages: int
    descriptors: bool = False


FORWARD_TILE = Tile(programs=2048, warps=4, stages=1)
BACKWARD_TILE = Tile(programs=256, warps=4, stages=1)
# float32 products run outside of the tensor cores, where a tile spills the registers of fewer warps
FLOAT32_FORWARD_TILE = Tile(programs=2048, warps=16, stages=1)
FLOAT32_BACKWARD_TILE = Tile(programs=512, warps=16, stages=1)


def choose_forward(dtype: torch.dtype) -> Tile:
    """Return the default tile of the forward pass for a dtype."""
    return FLOAT32_FORWARD_TILE if dtype == torch.float32 else FORWARD_TILE


def choose_backward(dtype: torch.dtype) -> Tile:
    """Return the default tile of the backward pass for a dtype."""
    return FLOAT32_BACKWARD_TILE if dtype == torch.float32 else BACKWARD_TILE


def forward(args: WindowArgs) -> Tensor:
    """Run the operator."""
    qkv, bias_table, window = args
    tile = tuned_tile("window_attention.forward", qkv.dtype, qkv.shape[:4].numel(), choose_forward(qkv.dtype))
    qkv, (batch, frames, height, width, _, heads, dim) = qkv.contiguous(), qkv.shape
    out = torch.empty((batch, frames, height, width, heads, dim), dtype=qkv.dtype, device=qkv.device)
    if out.numel():
        grid, sizes, constants = _geometry(qkv, window, tile)
        described = tile.descriptors and _can_describe(qkv, constants)
        x, y = _described(qkv, out, window) if described else (qkv, out)
        with torch.cuda.device_of(qkv):
            window_attention_fwd_kernel[grid](
                x, bias_table.contiguous(), y, *sizes, dim**-0.5, **constants,
                RAGGED=height % window != 0 or width % window != 0 or constants["TOKENS"] != window**2,
                DESCRIPTORS=described, num_warps=tile.warps, **pdl_options(qkv),
            )  # fmt: skip
    return out


def backward(grad: Tensor, args: WindowArgs) -> tuple[Tensor, Tensor]:
    """Return the gradients of qkv and bias_table from that of the output."""
    qkv, bias_table, window = args
    tile = tuned_tile("window_attention.backward", qkv.dtype, qkv.shape[:4].numel(), choose_backward(qkv.dtype))
    qkv = qkv.contiguous()
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    if not dqkv.numel():
        return dqkv, torch.zeros_like(bias_table, memory_format=torch.contiguous_format)
    grid, sizes, constants = _geometry(qkv, window, tile)
    heads, tokens = grid[0], constants["TOKENS"]
    parts = torch.empty((grid[1], heads, tokens, tokens), dtype=torch.float32, device=qkv.device)
    dtable = torch.empty(bias_table.shape, dtype=torch.float32, device=qkv.device)
    with torch.cuda.device_of(qkv):
        window_attention_bwd_kernel[grid](
            qkv, bias_table.contiguous(), grad.contiguous(), dqkv, parts, *sizes, qkv.shape[-1] ** -0.5, **constants,
            num_warps=tile.warps,
        )  # fmt: skip
        # programs are added in a fixed order, for equal bits at every run
        window_attention_fold_kernel[(dtable.shape[0], heads)](
            parts.sum(0), dtable, HEADS=heads, SIDE=window, TOKENS=tokens, num_warps=1
        )
    return dqkv, dtable.to(bias_table.dtype)


def _geometry(qkv: Tensor, window: int, tile: Tile) -> tuple[tuple[int, int], list[int], dict[str, Any]]:
    """Return the grid (heads, programs of a head), run-time sizes and compile-time constants."""
    batch, frames, height, width, _, heads, dim = qkv.shape
    down, across = -(-height // window), -(-width // window)
    windows = batch * frames * down * across
    share = -(-windows * heads // tile.programs)
    constants: dict[str, Any] = {
        "HEADS": heads,
        "DIM": dim,
        "BLOCK_D": max(16, 1 << (dim - 1).bit_length()),
        "SIDE": window,
        "TOKENS": max(16, 1 << (window * window - 1).bit_length()),
        "PRECISION": "ieee" if qkv.dtype == torch.float32 else "tf32",
        "STAGES": tile.stages,
    }
    return (heads, -(-windows // share)), [height, width, down, across, windows, share], constants


def _can_describe(qkv: Tensor, constants: dict[str, Any]) -> bool:
    whole = constants["TOKENS"] == constants["SIDE"] ** 2 and constants["BLOCK_D"] == constants["DIM"]
    return whole and aligned(qkv)


def _described(qkv: Tensor, out: Tensor, window: int) -> tuple[Any, Any]:
    """Return descriptors of windows; positions outside of a frame are loaded as zero and not stored."""
    block = [1, window, window, qkv.shape[-1]]
    x, y = qkv.flatten(0, 1).flatten(3), out.flatten(0, 1).flatten(3)
    return TensorDescriptor.from_tensor(x, block), TensorDescriptor.from_tensor(y, block)


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, WindowArgs]:
    grid, heads = (size.batch, size.frames, size.height, size.width), (size.heads, size.head_dim)
    qkv = torch.randn((*grid, 3, *heads), device=device, dtype=dtype)
    table = torch.randn(((2 * size.window - 1) ** 2, size.heads), device=device)
    return torch.randn((*grid, *heads), device=device, dtype=dtype), WindowArgs(qkv, table, size.window)


TUNING_SPACES = (
    TuningSpace(
        "window_attention.forward",
        (
            *(Tile(1 << 30, 4, 1), Tile(2048, 4, 1), Tile(1024, 4, 2), Tile(528, 4, 2), Tile(2048, 8, 1)),
            *(Tile(2112, 4, 2, True), Tile(1056, 4, 2, True), Tile(1056, 4, 3, True), Tile(528, 4, 2, True)),
        ),
        _draw,
        lambda grad, args: forward(args),
    ),
    TuningSpace(
        "window_attention.backward",
        (Tile(256, 4, 1), Tile(512, 4, 1), Tile(264, 4, 2), Tile(264, 8, 2), Tile(1024, 4, 1)),
        _draw,
        backward,
    ),
)
