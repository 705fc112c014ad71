"""Window attention as torch operators: what the compiler, autograd and CUDA graphs see of the kernels.

The launches are imported when they are first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.runtime.device import triton_unsupported

MAX_WINDOW = 8  # a window is one tile of 64 tokens
MAX_HEAD_DIM = 128


def unsupported(qkv: Tensor, bias_table: Tensor, window: int) -> str | None:
    """Say why the kernels cannot run this call, or None."""
    if (reason := triton_unsupported(qkv, bias_table)) is not None:
        return reason
    if window > MAX_WINDOW:
        return f"a window of {window} is wider than {MAX_WINDOW}"
    if qkv.shape[-1] % 8 or qkv.shape[-1] > MAX_HEAD_DIM:
        return f"head_dim {qkv.shape[-1]} is not a multiple of 8 up to {MAX_HEAD_DIM}"
    return None


def run(qkv: Tensor, bias_table: Tensor, window: int) -> Tensor:
    return window_attention(qkv, bias_table, window)


@torch.library.custom_op("omnitok::window_attention", mutates_args=())
def window_attention(qkv: Tensor, bias_table: Tensor, window: int) -> Tensor:
    from kernels.window_attention import launch

    return launch.forward(qkv, bias_table, window)


@torch.library.custom_op("omnitok::window_attention_backward", mutates_args=())
def window_attention_backward(grad: Tensor, qkv: Tensor, bias_table: Tensor, window: int) -> tuple[Tensor, Tensor]:
    from kernels.window_attention import launch

    return launch.backward(grad, qkv, bias_table, window)


@window_attention.register_fake
def _(qkv: Tensor, bias_table: Tensor, window: int) -> Tensor:
    return torch.empty((*qkv.shape[:4], *qkv.shape[5:]), dtype=qkv.dtype, device=qkv.device)


@window_attention_backward.register_fake
def _(grad: Tensor, qkv: Tensor, bias_table: Tensor, window: int) -> tuple[Tensor, ...]:
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (qkv, bias_table))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, bias_table, ctx.window = inputs
    ctx.save_for_backward(qkv, bias_table)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *window_attention_backward(grad, *ctx.saved_tensors, ctx.window), None


window_attention.register_autograd(_differentiate, setup_context=_save)
