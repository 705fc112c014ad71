"""Attention with bounded logits as a custom operator: opaque to the compiler, without gradients.

The launch is imported when it is first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.runtime.device import triton_unsupported

MAX_EXPONENT = 60.0  # sums of so great powers of two, and of their inverses, are far from float32's limits
HEAD_DIMS = (16, 32, 64, 128)
TORCH_MAX_POSITIONS = 256  # up to here torch is faster (H100), where there are more than TORCH_MIN_ROWS rows
TORCH_MIN_ROWS = 4096


def unsupported(qkv: Tensor, positions: int, bound: float, bias: Tensor | None = None) -> str | None:
    """Say why the kernel cannot run this call, or None."""
    if torch.is_grad_enabled() and qkv.requires_grad:
        return "no gradients"
    if (reason := triton_unsupported(qkv)) is not None:
        return reason
    if qkv.dtype != torch.bfloat16:
        return f"{qkv.dtype}, where only bfloat16 has the range for probabilities that are not normalised"
    if qkv.shape[-1] not in HEAD_DIMS:
        return f"head_dim {qkv.shape[-1]} is none of {', '.join(map(str, HEAD_DIMS))}"
    if not bound <= MAX_EXPONENT:
        return f"exponents up to {bound:.4g}; {MAX_EXPONENT:g} at most"
    return None if bias is None else "additive logits"


def not_preferred(qkv: Tensor, positions: int, bound: float, bias: Tensor | None = None) -> str | None:
    """Say where torch's call is the faster (H100)."""
    if positions <= TORCH_MAX_POSITIONS and qkv.shape[0] > TORCH_MIN_ROWS:
        return f"{positions} positions a frame; torch is faster up to {TORCH_MAX_POSITIONS} where there are many frames"
    return None


def run(qkv: Tensor, positions: int, bound: float, bias: Tensor | None = None) -> Tensor:
    return attend(qkv, positions)


@torch.library.custom_op("omnitok::attention_fixed_max", mutates_args=())
def attend(qkv: Tensor, positions: int) -> Tensor:
    from kernels.attention_fixed_max import launch

    return launch.forward(qkv, positions)


@attend.register_fake
def _(qkv: Tensor, positions: int) -> Tensor:
    return qkv.new_empty((qkv.shape[0], *qkv.shape[2:]))
