"""Launch of attention within sequences: grid and tiles. Imports triton."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.autotune.table import ProblemSize, TuningSpace, tuned_tile
from kernels.runtime.pdl import pdl_options
from kernels.sequence_attention.reference import SequenceArgs
from kernels.sequence_attention.triton_kernels import sequence_attention_kernel

MIN_TILE = 16  # channels that tensor cores take at once


@dataclass(frozen=True)
class Tile:
    """The tile of one program.

    Args:
        rows: queries of a program.
        keys: keys of one step of the loop.
        warps, stages: of a program, and of its pipeline of loads.
    """

    rows: int
    keys: int
    warps: int = 4
    stages: int = 2


SMALL_MAX_ROWS = 3072  # smaller tiles up to here, to occupy every multiprocessor
SMALL_TILE = Tile(rows=64, keys=64, stages=3)
LARGE_TILE = Tile(rows=128, keys=64)


def choose(rows: int) -> Tile:
    """Return the default tile for a number of rows."""
    return SMALL_TILE if rows <= SMALL_MAX_ROWS else LARGE_TILE


def split(dim: int) -> tuple[int, int]:
    """Return the widths of the two tiles of a head; the second is 0 where one suffices."""
    main = 1 << (dim.bit_length() - 1)
    rest = dim - main
    return main, max(MIN_TILE, 1 << (rest - 1).bit_length()) if rest else 0


def sequence_attention(args: SequenceArgs) -> Tensor:
    """Run the operator."""
    qkv = args.qkv.contiguous()
    sequences, length, _, heads, dim = qkv.shape
    out = torch.empty((sequences, length, heads, dim), dtype=qkv.dtype, device=qkv.device)
    if out.numel():
        tile = tuned_tile("sequence_attention", qkv.dtype, sequences * length, choose(sequences * length))
        main, rest = split(dim)
        with torch.cuda.device_of(qkv):
            sequence_attention_kernel[(-(-length // tile.rows), heads, sequences)](
                qkv, out, length, SCALE=math.log2(math.e) / math.sqrt(dim), HEADS=heads, DIM=dim, MAIN=main, REST=rest,
                ROWS=tile.rows, KEYS=tile.keys, STAGES=tile.stages,
                num_warps=tile.warps, num_stages=tile.stages, **pdl_options(qkv),
            )  # fmt: skip
    return out


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[SequenceArgs]:
    shape = (size.batch * size.frames, size.height * size.width, 3, size.heads, size.head_dim)
    return (SequenceArgs(torch.randn(shape, device=device, dtype=dtype)),)


CANDIDATES = (SMALL_TILE, LARGE_TILE, Tile(64, 64), Tile(64, 128), Tile(128, 64, warps=8))
TUNING_SPACES = (TuningSpace("sequence_attention", CANDIDATES, _draw, sequence_attention),)
