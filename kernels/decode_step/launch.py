"""Launch of a whole decode step: tiles and the memory that programs exchange. Imports triton."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl  # type: ignore[import-untyped]
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor  # type: ignore[import-untyped]

from kernels.decode_step.gluon_kernels import decode_step_kernel
from kernels.decode_step.reference import MAX_PROGRAMS, QUARTERS, StepArgs

WARPS = 8  # of a program, for two on every scheduler
RING_BYTES = 192 * 1024  # of shared memory
MAX_STAGES = 16
POLLS = 1 << 17  # about a tenth of a second; a barrier takes microseconds
BIASES = 32  # of one copy, 128 bytes: the unit of the copy engine in shared memory
MAX_PART = 512  # elements of a piece in one tile, two loads of every thread


@dataclass(frozen=True)
class Tile:
    """The work of one program.

    Args:
        warps: of a program, each with one piece of a chunk.
        stages: chunks in the ring.
        splits: programs of a head; 0 for as many as there are.
        cooperative: launch all programs at once or not at all.
        polls: of a flag, after which a program gives up.
    """

    warps: int
    stages: int
    splits: int = 0
    cooperative: bool = True
    polls: int = POLLS


def choose(width: int, element_bytes: int) -> Tile:
    """Return the default tile: as many chunks ahead as shared memory holds."""
    return Tile(WARPS, min(MAX_STAGES, RING_BYTES // (WARPS * width * element_bytes)))


def programs_of(device: torch.device) -> int:
    """Return the programs of a launch: one on each multiprocessor."""
    return min(torch.cuda.get_device_properties(device).multi_processor_count, MAX_PROGRAMS)


def decode_step(args: StepArgs, tile: Tile | None = None, programs: int = 0) -> Tensor:
    """Run the operator.

    Args:
        args: of the operator.
        tile: of each program, the default by default.
        programs: of the launch; one on each multiprocessor by default, and never more.
    """
    x, weights, biases, cache, slots, lengths, vocabulary, state = args
    layers, _, slot_count, heads, positions, dim = cache.shape
    rows, width = x.shape
    tile = tile or choose(width, x.element_size())
    programs = programs or programs_of(x.device)
    splits = tile.splits or programs // (rows * heads)
    if not splits or splits * rows * heads > programs:
        raise ValueError(f"{rows} rows of {heads} heads in {splits} parts need more than {programs} multiprocessors.")
    part = math.gcd(width, MAX_PART)
    elements = (width, 3 * width, QUARTERS * width, splits * width)
    memory = x.new_empty(rows * sum(elements))
    residual, qkv, hidden, parts = memory.split([rows * count for count in elements])
    masses = torch.empty(rows * heads * splits, dtype=torch.float32, device=x.device)
    logits = torch.empty((rows, vocabulary), dtype=torch.float32, device=x.device)
    layout = gl.NVMMASharedLayout(0, 8 * weights.element_size(), 2)  # not swizzled: a warp reads 512 bytes in a row
    with torch.cuda.device_of(x):
        decode_step_kernel[(programs,)](
            TensorDescriptor.from_tensor(weights, [tile.warps, part], layout),
            TensorDescriptor.from_tensor(biases, [BIASES], gl.NVMMASharedLayout(0, 32, 1)),
            x.contiguous(),
            cache,
            slots.contiguous(),
            lengths.contiguous(),
            residual,
            qkv,
            hidden,
            parts,
            masses,
            logits,
            state,
            slot_count,
            positions,
            dim**-0.5 / math.log(2),
            tile.polls,
            LAYERS=layers,
            ROWS=rows,
            C=width,
            HEADS=heads,
            D=dim,
            V=vocabulary,
            SPLITS=splits,
            PROGRAMS=programs,
            STAGES=tile.stages,
            num_warps=tile.warps,
            launch_cooperative_grid=tile.cooperative,
        )
    return logits
