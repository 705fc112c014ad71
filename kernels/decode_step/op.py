"""A whole decode step as a custom operator, without a backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.decode_step.reference import FLAGS, HEAD_MULTIPLE, LAYER_PIECES, MAX_PROGRAMS, StepArgs
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import aligned, capability, triton_unsupported
from kernels.runtime.dispatch import Implementation

CAPABILITY = 9  # major, of the GPUs whose copy engine and shared memory the kernel is laid out for
DTYPES = (torch.bfloat16, torch.float16)
MAX_ROWS = 2
MAX_WIDTH = 1536  # of two rows in the registers of a warp
WIDTH_MULTIPLE = 256  # 16 bytes of every thread of a warp
HEAD_DIM_MULTIPLE = 32
MAX_HEAD_DIM = 128
MAX_HEADS = 64  # of all rows: each needs a program

step = launch_op("decode_step.decode_step", StepArgs, mutated="cache")


@step.register_fake
def _(*flat: Any) -> Tensor:
    args = StepArgs(*flat)
    return args.x.new_empty((args.x.shape[0], args.vocabulary), dtype=torch.float32)


def unsupported(args: StepArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    x, weights, biases, cache, slots, lengths, vocabulary, state = args
    if (reason := triton_unsupported(x, weights, cache, dtypes=DTYPES, differentiable=False)) is not None:
        return reason
    if (found := capability(x.device.index))[0] != CAPABILITY:
        return f"compute capability {found[0]}.{found[1]} must be {CAPABILITY}.0"
    rows, width = x.shape
    layers, _, _, heads, _, dim = cache.shape
    if rows > MAX_ROWS:
        return f"R={rows} must be at most {MAX_ROWS}"
    if width > MAX_WIDTH or width % WIDTH_MULTIPLE:
        return f"C={width} must be a multiple of {WIDTH_MULTIPLE} and at most {MAX_WIDTH}"
    if dim > MAX_HEAD_DIM or dim % HEAD_DIM_MULTIPLE:
        return f"head_dim={dim} must be a multiple of {HEAD_DIM_MULTIPLE} and at most {MAX_HEAD_DIM}"
    if rows * heads > MAX_HEADS:
        return f"R={rows} and H={heads} must have a product of at most {MAX_HEADS}"
    if weights.dtype != x.dtype or cache.dtype != x.dtype or biases.dtype != torch.float32:
        return f"weights are {weights.dtype}, the cache is {cache.dtype} and biases are {biases.dtype}"
    pieces = layers * LAYER_PIECES * width + vocabulary
    pieces += -pieces % HEAD_MULTIPLE
    if tuple(weights.shape) != (pieces, width) or len(biases) != pieces:
        return f"weights of shape {tuple(weights.shape)} must be {(pieces, width)}, with as many biases"
    if slots.dtype != torch.int32 or lengths.dtype != torch.int32:
        return f"slots and lengths are {slots.dtype} and {lengths.dtype}; they must be int32"
    if state.dtype != torch.int32 or state.numel() < FLAGS + MAX_PROGRAMS:
        return f"a state of {state.numel()} {state.dtype} must come from make_state"
    if not all(tensor.is_contiguous() for tensor in (weights, biases, cache)) or not aligned(weights):
        return "weights, biases and the cache must be contiguous, and weights aligned to 16 bytes"
    return None


TRITON = Implementation.of_op(step, unsupported)
