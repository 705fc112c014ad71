"""Temporal attention as torch operators: what the compiler, autograd and CUDA graphs see of the kernels.

The launches are imported when they are first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported

MAX_KEYS = 8  # all of them live in registers
MAX_HEAD_DIM = 128


def unsupported(
    q: Tensor,
    kv: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    past_kv: Tensor | None = None,
    causal: bool = True,
    window: int | None = None,
    slopes: Tensor | None = None,
) -> str | None:
    """Say why the kernels cannot run this call, or None."""
    if (reason := triton_unsupported(kv, q, past_kv, q_scale, k_scale, slopes)) is not None:
        return reason
    if q.dtype != kv.dtype or (past_kv is not None and past_kv.dtype != kv.dtype):
        return "queries, keys and carried keys differ in dtype"
    keys = kv.shape[1] + (0 if past_kv is None else past_kv.shape[1])
    if keys > MAX_KEYS:
        return f"{keys} keys; {MAX_KEYS} fit in registers"
    if q.shape[-1] % 8 or q.shape[-1] > MAX_HEAD_DIM:
        return f"head_dim {q.shape[-1]} is not a multiple of 8 up to {MAX_HEAD_DIM}"
    if q.shape[0] > MAX_GRID_YZ:
        return f"{q.shape[0]} items; at most {MAX_GRID_YZ} fit in a grid"
    if window is not None and not causal:
        return "a temporal window needs causal attention"
    if slopes is not None and slopes.requires_grad and torch.is_grad_enabled():
        return "slopes get no gradient"
    return None


def run(
    q: Tensor,
    kv: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    past_kv: Tensor | None = None,
    causal: bool = True,
    window: int | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    return temporal_attention(q, kv, q_scale, k_scale, past_kv, slopes, causal, window)


@torch.library.custom_op("omnitok::temporal_attention", mutates_args=())
def temporal_attention(
    q: Tensor,
    kv: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    past_kv: Tensor | None,
    slopes: Tensor | None,
    causal: bool,
    window: int | None,
) -> Tensor:
    from kernels.temporal_attention import launch

    return launch.forward(q, kv, q_scale, k_scale, past_kv, slopes, causal, window)


@torch.library.custom_op("omnitok::temporal_attention_backward", mutates_args=())
def temporal_attention_backward(
    grad: Tensor,
    q: Tensor,
    kv: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    past_kv: Tensor | None,
    slopes: Tensor | None,
    causal: bool,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from kernels.temporal_attention import launch

    return launch.backward(grad, q, kv, q_scale, k_scale, past_kv, slopes, causal, window)


@temporal_attention.register_fake
def _(q: Tensor, kv: Tensor, *rest: Any) -> Tensor:
    return torch.empty(q.shape, dtype=kv.dtype, device=kv.device)


@temporal_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, past_kv: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    past = kv.new_empty(0) if past_kv is None else past_kv
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, kv, q_scale, k_scale, past))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.causal, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *grads, dpast = temporal_attention_backward(grad, *ctx.saved_tensors, ctx.causal, ctx.window)
    past_kv = ctx.saved_tensors[4]
    return *grads, None if past_kv is None else dpast, None, None, None


temporal_attention.register_autograd(_differentiate, setup_context=_save)
