"""Attention along a few frames at each position, from one product of queries, keys and values; for inference."""

from kernels.frame_attention import library, op, reference
from kernels.runtime.dispatch import Operator

frame_attention = Operator(
    "frame_attention", reference.FrameArgs, reference.frame_attention, triton=op.TRITON, torch=library.TORCH
)

__all__ = ["frame_attention"]
