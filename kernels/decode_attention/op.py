"""Decode attention as a custom operator, without a backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.decode_attention.reference import FLOAT8, MIN_COUNTERS, DecodeArgs
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import DTYPES, MAX_GRID_YZ, capability, triton_unsupported
from kernels.runtime.dispatch import Implementation

MAX_HEAD_DIM = 256
VECTOR = 8  # elements of a load, which a head must fill
MAX_POSITIONS = 1 << 20  # offsets within a head are int32
FLOAT8_MIN_CAPABILITY = (8, 9)

attend = launch_op("decode_attention.decode_attention", DecodeArgs, mutated="cache")


@attend.register_fake
def _(qkv: Tensor, *args: Any) -> Tensor:
    return qkv.new_empty((qkv.shape[0], *qkv.shape[2:]))


def unsupported(args: DecodeArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    qkv, cache, slots, lengths, counters = args
    rows, _, heads, dim = qkv.shape
    if (reason := triton_unsupported(qkv, differentiable=False)) is not None:
        return reason
    if (reason := triton_unsupported(cache, dtypes=(*DTYPES, FLOAT8), differentiable=False)) is not None:
        return reason
    if cache.dtype == FLOAT8 and capability(cache.device.index) < FLOAT8_MIN_CAPABILITY:
        return f"a float8 cache needs compute capability {FLOAT8_MIN_CAPABILITY[0]}.{FLOAT8_MIN_CAPABILITY[1]}"
    if cache.dtype not in (qkv.dtype, FLOAT8):
        return f"the cache's {cache.dtype} must be the inputs' {qkv.dtype}, or {FLOAT8}"
    if dim > MAX_HEAD_DIM or dim % VECTOR:
        return f"head_dim={dim} must be a multiple of {VECTOR} and at most {MAX_HEAD_DIM}"
    if cache.shape[3] > MAX_POSITIONS:
        return f"S={cache.shape[3]} must be at most {MAX_POSITIONS}"
    if max(rows, heads) > MAX_GRID_YZ:
        return f"R={rows} and H={heads} must be at most {MAX_GRID_YZ}"
    if slots.dtype != torch.int32 or lengths.dtype != torch.int32:
        return f"slots and lengths are {slots.dtype} and {lengths.dtype}; they must be int32"
    if not cache.is_contiguous():
        return "the cache must be contiguous"
    if counters is not None and counters.numel() < MIN_COUNTERS:
        return f"{counters.numel()} counters must be at least {MIN_COUNTERS}"
    return None


TRITON = Implementation.of_op(attend, unsupported)
