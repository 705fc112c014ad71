"""Window attention as a differentiable custom operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.runtime.custom_op import differentiable_op
from kernels.runtime.device import triton_unsupported
from kernels.runtime.dispatch import Implementation
from kernels.window_attention.reference import WindowArgs

MAX_WINDOW = 8  # a window is one tile of 64 tokens
MAX_HEAD_DIM = 128

window_attention = differentiable_op("window_attention", WindowArgs, grads=2)


@window_attention.register_fake
def _(qkv: Tensor, *args: Any) -> Tensor:
    return torch.empty((*qkv.shape[:4], *qkv.shape[5:]), dtype=qkv.dtype, device=qkv.device)


def unsupported(args: WindowArgs) -> str | None:
    """Return why the kernels cannot run this call, or None."""
    qkv, bias_table, window = args
    if (reason := triton_unsupported(qkv, bias_table)) is not None:
        return reason
    if window > MAX_WINDOW:
        return f"window={window} must be at most {MAX_WINDOW}"
    if qkv.shape[-1] % 8 or qkv.shape[-1] > MAX_HEAD_DIM:
        return f"head_dim={qkv.shape[-1]} must be a multiple of 8 up to {MAX_HEAD_DIM}"
    return None


TRITON = Implementation.of_op(window_attention, unsupported)
