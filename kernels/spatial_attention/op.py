"""Spatial attention: our kernels prepare queries and keys, torch's scaled_dot_product_attention does the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported
from kernels.spatial_attention.library import attend
from kernels.spatial_attention.rope import RopeTable

MAX_HEAD_DIM = 128
ARGS = "Tensor x, Tensor scale, Tensor? cos, Tensor? sin"

cosine = launch_op("cosine", f"({ARGS}) -> Tensor", "spatial_attention.forward")
cosine_backward = launch_op(
    "cosine_backward", f"(Tensor grad, {ARGS}) -> (Tensor, Tensor)", "spatial_attention.backward"
)


@cosine.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@cosine_backward.register_fake
def _(grad: Tensor, x: Tensor, scale: Tensor, *tables: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty(y.shape, dtype=y.dtype, device=y.device) for y in (x, scale))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *cosine_backward(grad, *ctx.saved_tensors), None, None


cosine.register_autograd(_differentiate, setup_context=_save)


def unsupported(
    q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, rope: RopeTable | None = None, bias: Tensor | None = None
) -> str | None:
    """Return why the kernels cannot run this call, or None."""
    if (reason := triton_unsupported(kv, q, q_scale, k_scale, *(rope or ()), bias)) is not None:
        return reason
    if q.dtype != kv.dtype:
        return f"the queries' {q.dtype} must be the keys' {kv.dtype}"
    if q.shape[-1] % 8 or q.shape[-1] > MAX_HEAD_DIM:
        return f"head_dim={q.shape[-1]} must be a multiple of 8 up to {MAX_HEAD_DIM}"
    if q.shape[0] * q.shape[1] > MAX_GRID_YZ:
        return f"the {q.shape[0] * q.shape[1]} frames of the batch must be at most {MAX_GRID_YZ}"
    return None


def run(
    q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, rope: RopeTable | None = None, bias: Tensor | None = None
) -> Tensor:
    """Run the kernels and torch's attention; arguments are those of `reference.spatial_attention`."""
    return attend(lambda x, scale: cosine(x, scale, *(rope or (None, None))), q, kv, q_scale, k_scale, bias)
