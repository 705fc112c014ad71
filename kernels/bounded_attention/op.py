"""Attention with bounded logits as a custom operator: opaque to the compiler, without gradients.

The launch is imported when it is first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.runtime.device import refuse_triton

MOST_EXPONENT = 60.0  # sums of so great powers of two, and of their inverses, are far from float32's limits
DIMS = (16, 32, 64, 128)
SHORT, FEW_ROWS = 256, 4096  # positions of a frame, and rows over all frames


def refuse(qkv: Tensor, positions: int, bound: float, bias: Tensor | None = None) -> str | None:
    """Say why the kernel cannot run this call, or None."""
    if torch.is_grad_enabled() and qkv.requires_grad:
        return "no gradients"
    if (reason := refuse_triton(qkv)) is not None:
        return reason
    if qkv.dtype != torch.bfloat16:
        return f"{qkv.dtype}, where only bfloat16 has the range for probabilities that are not normalised"
    if qkv.shape[-1] not in DIMS:
        return f"head_dim {qkv.shape[-1]} is none of {', '.join(map(str, DIMS))}"
    if not bound <= MOST_EXPONENT:
        return f"exponents up to {bound:.4g}; {MOST_EXPONENT:g} at most"
    return None if bias is None else "additive logits"


def avoid(qkv: Tensor, positions: int, bound: float, bias: Tensor | None = None) -> str | None:
    """Say where torch's call is the faster (H100)."""
    if positions <= SHORT and qkv.shape[0] > FEW_ROWS:
        return f"{positions} positions a frame; torch is faster up to {SHORT} where there are many frames"
    return None


def run(qkv: Tensor, positions: int, bound: float, bias: Tensor | None = None) -> Tensor:
    return attend(qkv, positions)


@torch.library.custom_op("omnitok::bounded_attention", mutates_args=())
def attend(qkv: Tensor, positions: int) -> Tensor:
    from kernels.bounded_attention import launch

    return launch.forward(qkv, positions)


@attend.register_fake
def _(qkv: Tensor, positions: int) -> Tensor:
    return qkv.new_empty((qkv.shape[0], *qkv.shape[2:]))
