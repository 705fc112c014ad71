"""Attention within sequences as a custom operator, without a backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported
from kernels.runtime.dispatch import Implementation
from kernels.sequence_attention.reference import SequenceArgs

MIN_HEAD_DIM, MAX_HEAD_DIM = 16, 128

sequence_attention = launch_op("sequence_attention.sequence_attention", SequenceArgs)


@sequence_attention.register_fake
def _(qkv: Tensor) -> Tensor:
    return qkv.new_empty((*qkv.shape[:2], *qkv.shape[3:]))


def unsupported(args: SequenceArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    qkv = args.qkv
    if qkv.dtype not in (torch.bfloat16, torch.float16):
        return f"{qkv.dtype} must be torch.bfloat16 or torch.float16, which tensor cores take"
    if qkv.shape[-1] % 8 or not MIN_HEAD_DIM <= qkv.shape[-1] <= MAX_HEAD_DIM:
        return f"head_dim={qkv.shape[-1]} must be a multiple of 8 from {MIN_HEAD_DIM} to {MAX_HEAD_DIM}"
    if qkv.shape[0] > MAX_GRID_YZ:
        return f"{qkv.shape[0]} sequences must be at most {MAX_GRID_YZ}"
    return triton_unsupported(qkv, differentiable=False)


TRITON = Implementation.of_op(sequence_attention, unsupported)
