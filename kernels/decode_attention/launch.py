"""Launch of decode attention: grid and tiles. Imports triton."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.decode_attention.reference import FLOAT8, DecodeArgs
from kernels.decode_attention.triton_kernels import decode_attention_kernel
from kernels.runtime.pdl import pdl_options


@dataclass(frozen=True)
class Tile:
    """The tile of one program.

    Args:
        chunk: positions whose sums are joined by one maximum; changes the rounding of results.
        programs: of the whole grid at least, as far as there are chunks; at most MIN_COUNTERS.
        warps, stages: of a program, and of its pipeline of loads.
    """

    chunk: int = 64
    programs: int = 512
    warps: int = 2
    stages: int = 2


INTERPRETED = "TRITON_INTERPRET" in os.environ  # which knows no assembly
DEFAULT_TILE = Tile()


def decode_attention(args: DecodeArgs, tile: Tile = DEFAULT_TILE) -> Tensor:
    """Run the operator."""
    qkv, cache, slots, lengths, counters = args
    qkv = qkv.contiguous()
    rows, _, heads, dim = qkv.shape
    out = torch.empty((rows, heads, dim), dtype=qkv.dtype, device=qkv.device)
    if not out.numel():
        return out
    positions, block = cache.shape[3], 1 << (dim - 1).bit_length()
    chunks = -(-positions // tile.chunk)
    splits = min(chunks, -(-tile.programs // (rows * heads)))
    partials = torch.empty(rows * heads * chunks * (block + 2), dtype=torch.float32, device=qkv.device)
    if counters is None:
        counters = torch.zeros(rows * heads, dtype=torch.int32, device=qkv.device) if splits > 1 else lengths
    with torch.cuda.device_of(qkv):
        decode_attention_kernel[(splits, heads, rows)](
            qkv,
            cache,
            slots.contiguous(),
            lengths.contiguous(),
            out,
            partials,
            counters,
            cache.shape[1],
            positions,
            chunks,
            dim**-0.5 / math.log(2),
            H=heads,
            D=dim,
            BLOCK_D=block,
            CHUNK=tile.chunk,
            BLOCK_C=1 << (chunks - 1).bit_length(),
            PAIRS=cache.dtype == FLOAT8 and not INTERPRETED,
            SPLITS=splits,
            STAGES=tile.stages,
            num_warps=tile.warps,
            **pdl_options(qkv),
        )
    return out
