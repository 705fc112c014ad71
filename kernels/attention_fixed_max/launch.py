"""Launch of attention with a fixed maximum: grid and tiles. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-untyped]

from kernels.attention_fixed_max.reference import FixedMaxArgs
from kernels.attention_fixed_max.triton_kernels import attention_fixed_max_kernel
from kernels.autotune.table import ProblemSize, TuningSpace, tuned_tile
from kernels.runtime.device import aligned
from kernels.runtime.pdl import pdl_options


@dataclass(frozen=True)
class Tile:
    """The tile of one program.

    Args:
        rows: queries of a program.
        keys: keys of one step of the loop.
        warps, stages: of a program, and of its pipeline of loads.
        descriptors: use the tensor memory accelerator (compute capability 9.0 and later).
        registers: limit for a thread, or None; fewer registers let more programs run on a multiprocessor.
    """

    rows: int
    keys: int
    warps: int = 4
    stages: int = 3
    descriptors: bool = False
    registers: int | None = None


SMALL_MAX_ROWS = 2048  # smaller tiles up to here, to occupy every multiprocessor
SMALL_TILE = Tile(rows=64, keys=64)
LARGE_TILE = Tile(rows=128, keys=64)


def choose(rows: int) -> Tile:
    """Return the default tile for a number of rows."""
    return SMALL_TILE if rows <= SMALL_MAX_ROWS else LARGE_TILE


def attention_fixed_max(args: FixedMaxArgs) -> Tensor:
    """Run the operator."""
    qkv, positions = args.qkv.contiguous(), args.positions
    rows, _, heads, dim = qkv.shape
    out = torch.empty((rows, heads, dim), dtype=qkv.dtype, device=qkv.device)
    if out.numel():
        tile = tuned_tile("attention_fixed_max", qkv.dtype, rows, choose(rows))
        x: tuple[Any, Any] = (qkv, qkv)
        described = tile.descriptors and aligned(qkv)
        if described:
            matrix = qkv.view(rows, -1)
            x = (
                TensorDescriptor.from_tensor(matrix, [tile.rows, dim]),
                TensorDescriptor.from_tensor(matrix, [tile.keys, dim]),
            )
        with torch.cuda.device_of(qkv):
            attention_fixed_max_kernel[(-(-positions // tile.rows) * heads * (rows // positions),)](
                *x, out, positions,
                HEADS=heads, DIM=dim, ROWS=tile.rows, KEYS=tile.keys, RAGGED=positions % tile.keys != 0,
                DESCRIPTORS=described, STAGES=tile.stages,
                num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers, **pdl_options(qkv),
            )  # fmt: skip
    return out


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[FixedMaxArgs]:
    qkv = torch.randn((size.rows, 3, size.heads, size.head_dim), device=device).to(dtype) / size.head_dim**0.5
    return (FixedMaxArgs(qkv, size.height * size.width, bound=size.head_dim**0.5),)


TUNING_SPACES = (
    TuningSpace(
        "attention_fixed_max",
        (
            Tile(64, 64, descriptors=True),
            Tile(64, 128, descriptors=True),
            Tile(128, 64, descriptors=True),
            Tile(128, 64, warps=8, descriptors=True),
            Tile(128, 128, warps=8, descriptors=True, registers=128),
        ),
        _draw,
        attention_fixed_max,
    ),
)
