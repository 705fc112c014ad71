"""Attention along frames as a custom operator, without a backward pass."""

from __future__ import annotations

from torch import Tensor

from kernels.frame_attention.reference import FrameArgs
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported
from kernels.runtime.dispatch import Implementation

MAX_FRAMES = 8  # all keys and values of a position stay in registers
MAX_HEAD_DIM = 128

frame_attention = launch_op("frame_attention.frame_attention", FrameArgs)


@frame_attention.register_fake
def _(qkv: Tensor) -> Tensor:
    return qkv.new_empty((*qkv.shape[:3], *qkv.shape[4:]))


def unsupported(args: FrameArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    batch, frames, dim = args.qkv.shape[0], args.qkv.shape[1], args.qkv.shape[-1]
    if frames > MAX_FRAMES:
        return f"{frames} frames must be at most {MAX_FRAMES}"
    if dim % 8 or dim > MAX_HEAD_DIM:
        return f"head_dim={dim} must be a multiple of 8 up to {MAX_HEAD_DIM}"
    if batch > MAX_GRID_YZ:
        return f"batch={batch} must be at most {MAX_GRID_YZ}"
    return triton_unsupported(args.qkv, differentiable=False)


TRITON = Implementation.of_op(frame_attention, unsupported)
