"""Launch of decode attention: grid and tiles. Imports triton."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.decode_attention.reference import FLOAT8, DecodeArgs
from kernels.decode_attention.triton_kernels import decode_attention_kernel
from kernels.runtime.pdl import pdl_options

FETCH_BYTES = 16  # unit of the bulk fetch
LOAD_BYTES = 16  # of a thread
LANES = 32  # threads of a warp
WIDTHS = 32, 16, 8  # channels of a tile; one of them divides every head that is supported
LARGE_HEAD = 128  # channels, above which registers hold fewer positions


PIPELINE_BYTES = 96 * 1024  # of shared memory that a program's pipeline may take, on every GPU since 8.0


@dataclass(frozen=True)
class Tile:
    """The work of one program.

    Args:
        splits: programs of a head, a power of two; changes the rounding of results, as warps and repeats do.
        warps: of a program.
        repeats: positions that a thread loads at once.
        stages: of a pipeline of loads through shared memory, 1 for loads into registers.
        fetched: fetch the first positions while the kernel before still runs; else keep others' data in the L2 cache.
        early: load a program's first positions while the kernel before still runs, and fetch those after them.
    """

    splits: int
    warps: int
    repeats: int
    stages: int = 1
    fetched: bool = True
    early: bool = False


def choose(rows: int, float8: bool) -> Tile:
    """Return the default tile, the fastest of those tried on an H200 for heads of 96 channels."""
    if rows <= 16:
        return Tile(16 if rows <= 2 else 8, 1, 2 if float8 else 4, early=rows <= 2 and not float8)
    if not float8:
        return Tile(1, 4, 2, stages=3)
    if rows <= 64:
        return Tile(1, 2, 2, stages=3 if rows <= 32 else 1)
    return Tile(1, 1, 2, stages=4)


def decode_attention(args: DecodeArgs, tile: Tile | None = None) -> Tensor:
    """Run the operator."""
    qkv, cache, slots, lengths, counters = args
    qkv = qkv.contiguous()
    rows, _, heads, dim = qkv.shape
    out = torch.empty((rows, heads, dim), dtype=qkv.dtype, device=qkv.device)
    if not out.numel():
        return out
    tile = tile or choose(rows, cache.dtype == FLOAT8)
    if dim > LARGE_HEAD:
        tile = replace(tile, repeats=1)
    if dim * cache.element_size() % FETCH_BYTES:  # a position would begin or end within a unit of the bulk fetch
        tile = replace(tile, fetched=False)
    width = next(width for width in WIDTHS if dim % width == 0)
    streams = tile.warps * LANES // max(1, width * cache.element_size() // LOAD_BYTES)
    stage_bytes = 2 * streams * tile.repeats * dim * cache.element_size()
    stages = tile.stages if tile.stages * stage_bytes <= PIPELINE_BYTES else 1
    partials = out
    if tile.splits > 1:
        partials = torch.empty(rows * heads * tile.splits * (dim + 2), dtype=torch.float32, device=qkv.device)
        if counters is None or counters.numel() < rows * heads:
            counters = torch.zeros(rows * heads, dtype=torch.int32, device=qkv.device)
    with torch.cuda.device_of(qkv):
        decode_attention_kernel[(tile.splits, heads, rows)](
            qkv,
            cache,
            slots.contiguous(),
            lengths.contiguous(),
            out,
            partials,
            lengths if counters is None else counters,
            cache.shape[1],
            cache.shape[3],
            dim**-0.5 / math.log(2),
            H=heads,
            D=dim,
            WIDTH=width,
            ROWS=streams * tile.repeats,
            STREAMS=streams,
            SPLITS=tile.splits,
            FETCHED=tile.fetched,
            EARLY=tile.early,
            STAGES=stages,
            num_warps=tile.warps,
            **pdl_options(qkv),
        )
    return out
