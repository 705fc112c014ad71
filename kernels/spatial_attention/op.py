"""Spatial attention with queries and keys prepared by our kernels, then torch's scaled_dot_product_attention.

The launches are imported when they are first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported
from kernels.spatial_attention.reference import LOGIT_SCALE
from kernels.spatial_attention.rope import RopeTable

MAX_HEAD_DIM = 128


def unsupported(
    q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, rope: RopeTable | None = None, bias: Tensor | None = None
) -> str | None:
    """Say why the kernels cannot run this call, or None."""
    if (reason := triton_unsupported(kv, q, q_scale, k_scale, *(rope or ()), bias)) is not None:
        return reason
    if q.dtype != kv.dtype:
        return "queries and keys differ in dtype"
    if q.shape[-1] % 8 or q.shape[-1] > MAX_HEAD_DIM:
        return f"head_dim {q.shape[-1]} is not a multiple of 8 up to {MAX_HEAD_DIM}"
    if q.shape[0] * q.shape[1] > MAX_GRID_YZ:
        return f"{q.shape[0] * q.shape[1]} frames; at most {MAX_GRID_YZ} fit in a grid"
    return None


def run(
    q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, rope: RopeTable | None = None, bias: Tensor | None = None
) -> Tensor:
    batch, frames, height, width = kv.shape[:4]
    k, v = kv.flatten(2, 3).flatten(0, 1).unbind(2)  # (B*T, N, H, D)
    cos, sin = (None, None) if rope is None else rope
    q, k = cosine(q.flatten(2, 3).flatten(0, 1), q_scale, cos, sin), cosine(k, k_scale, cos, sin)
    mask = None if bias is None else bias.to(v.dtype)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=LOGIT_SCALE)
    return out.transpose(1, 2).unflatten(0, (batch, frames)).unflatten(2, (height, width))


@torch.library.custom_op("omnitok::cosine", mutates_args=())
def cosine(x: Tensor, scale: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    from kernels.spatial_attention import launch

    return launch.forward(x, scale, cos, sin)


@torch.library.custom_op("omnitok::cosine_backward", mutates_args=())
def cosine_backward(
    grad: Tensor, x: Tensor, scale: Tensor, cos: Tensor | None, sin: Tensor | None
) -> tuple[Tensor, Tensor]:
    from kernels.spatial_attention import launch

    return launch.backward(grad, x, scale, cos, sin)


@cosine.register_fake
def _(x: Tensor, scale: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@cosine_backward.register_fake
def _(grad: Tensor, x: Tensor, scale: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(torch.empty(y.shape, dtype=y.dtype, device=y.device) for y in (x, scale))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *cosine_backward(grad, *ctx.saved_tensors), None, None


cosine.register_autograd(_differentiate, setup_context=_save)
