"""Spatial attention: our kernels prepare queries and keys, torch's scaled_dot_product_attention does the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.runtime.custom_op import differentiable_op
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported
from kernels.runtime.dispatch import Implementation
from kernels.spatial_attention.library import attend
from kernels.spatial_attention.reference import SpatialArgs

MAX_HEAD_DIM = 128


class CosineArgs(NamedTuple):
    """The arguments of `reference.cosine` with x as (F, N, H, D), and the tables of the rope."""

    x: Tensor
    scale: Tensor
    cos: Tensor | None
    sin: Tensor | None


cosine = differentiable_op("spatial_attention", CosineArgs, grads=2, name="cosine")


@cosine.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def unsupported(args: SpatialArgs) -> str | None:
    """Return why the kernels cannot run this call, or None."""
    q, kv, q_scale, k_scale, rope, bias = args
    if (reason := triton_unsupported(kv, q, q_scale, k_scale, *(rope or ()), bias)) is not None:
        return reason
    if q.dtype != kv.dtype:
        return f"the queries' {q.dtype} must be the keys' {kv.dtype}"
    if q.shape[-1] % 8 or q.shape[-1] > MAX_HEAD_DIM:
        return f"head_dim={q.shape[-1]} must be a multiple of 8 up to {MAX_HEAD_DIM}"
    if q.shape[0] * q.shape[1] > MAX_GRID_YZ:
        return f"the {q.shape[0] * q.shape[1]} frames of the batch must be at most {MAX_GRID_YZ}"
    return None


def run(args: SpatialArgs) -> Tensor:
    """Run the kernels and torch's attention."""
    return attend(args, lambda x, scale: cosine(x, scale, *(args.rope or (None, None))))


TRITON = Implementation(run, unsupported)
