"""Attention with a fixed maximum as a custom operator, without a backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.attention_fixed_max.reference import FixedMaxArgs
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import triton_unsupported
from kernels.runtime.dispatch import Implementation

MAX_EXPONENT = 60.0  # sums of 2^60, and their inverses, are far from float32's limits
HEAD_DIMS = (16, 32, 64, 128)
TORCH_MAX_POSITIONS = 256  # torch is faster up to here on an H100, given more than TORCH_MIN_ROWS rows
TORCH_MIN_ROWS = 4096

attend = launch_op("attention_fixed_max.attention_fixed_max", FixedMaxArgs)


@attend.register_fake
def _(qkv: Tensor, *args: Any) -> Tensor:
    return qkv.new_empty((qkv.shape[0], *qkv.shape[2:]))


def unsupported(args: FixedMaxArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    qkv, _, bound, bias = args
    if (reason := triton_unsupported(qkv, differentiable=False)) is not None:
        return reason
    if qkv.dtype != torch.bfloat16:
        return f"{qkv.dtype} must be torch.bfloat16, whose range holds probabilities before normalisation"
    if qkv.shape[-1] not in HEAD_DIMS:
        return f"head_dim={qkv.shape[-1]} must be one of {', '.join(map(str, HEAD_DIMS))}"
    if not bound <= MAX_EXPONENT:
        return f"bound={bound:.4g} must be at most {MAX_EXPONENT:g}"
    return None if bias is None else "the kernel adds no bias to the logits"


def not_preferred(args: FixedMaxArgs) -> str | None:
    """Return why torch's call is faster, or None."""
    rows = args.qkv.shape[0]
    if args.positions <= TORCH_MAX_POSITIONS and rows > TORCH_MIN_ROWS:
        return f"torch is faster for {args.positions} positions a frame and {rows} rows"
    return None


TRITON = Implementation.of_op(attend, unsupported, not_preferred)
