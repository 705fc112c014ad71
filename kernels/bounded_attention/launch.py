"""Launch of attention with bounded logits: grid and tiles. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-untyped]

from kernels.autotune.table import Search, Size, Trial, tuned
from kernels.bounded_attention.triton_kernels import bounded_attention_kernel
from kernels.runtime.device import aligned
from kernels.runtime.pdl import overlapped


@dataclass(frozen=True)
class Tile:
    """The tile of one program.

    Args:
        rows: queries.
        keys: gone through at a time.
        warps, stages: of a program, and of its pipeline of loads.
        descriptors: loads by the tensor memory accelerator (compute capability 9.0 and later).
        registers: the most that a thread may take, or None for what the compiler likes; fewer let more programs in.
    """

    rows: int
    keys: int
    warps: int = 4
    stages: int = 3
    descriptors: bool = False
    registers: int | None = None


FEW_ROWS = 2048  # up to here smaller tiles, so that every multiprocessor has some
FEW = Tile(rows=64, keys=64)
MANY = Tile(rows=128, keys=64)


def choose(rows: int) -> Tile:
    """The tile for a number of rows."""
    return FEW if rows <= FEW_ROWS else MANY


def forward(qkv: Tensor, positions: int, tile: Tile | None = None) -> Tensor:
    """Run the operator; arguments are those of `reference.bounded_attention`."""
    qkv, (rows, _, heads, dim) = qkv.contiguous(), qkv.shape
    out = torch.empty((rows, heads, dim), dtype=qkv.dtype, device=qkv.device)
    if out.numel():
        tile = tile or tuned("bounded_attention", qkv.dtype, rows, choose(rows))
        x: tuple[Any, Any] = (qkv, qkv)
        described = tile.descriptors and aligned(qkv)
        if described:
            matrix = qkv.view(rows, -1)
            x = (
                TensorDescriptor.from_tensor(matrix, [tile.rows, dim]),
                TensorDescriptor.from_tensor(matrix, [tile.keys, dim]),
            )
        with torch.cuda.device_of(qkv):
            bounded_attention_kernel[(-(-positions // tile.rows) * heads * (rows // positions),)](
                *x, out, positions,
                HEADS=heads, DIM=dim, ROWS=tile.rows, KEYS=tile.keys, RAGGED=positions % tile.keys != 0,
                DESCRIPTORS=described, STAGES=tile.stages,
                num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers, **overlapped(qkv),
            )  # fmt: skip
    return out


def _make(size: Size, dtype: torch.dtype, device: torch.device) -> Trial[Tile]:
    qkv = torch.randn((size.rows, 3, size.heads, size.head_dim), device=device).to(dtype) / size.head_dim**0.5
    positions = size.height * size.width
    return Trial(dtype, size.rows, choose(size.rows), lambda tile: forward(qkv, positions, tile))


SEARCHES = (
    Search(
        "bounded_attention",
        (
            Tile(64, 64, descriptors=True),
            Tile(64, 128, descriptors=True),
            Tile(128, 64, descriptors=True),
            Tile(128, 64, warps=8, descriptors=True),
            Tile(128, 128, warps=8, descriptors=True, registers=128),
        ),
        _make,
    ),
)
