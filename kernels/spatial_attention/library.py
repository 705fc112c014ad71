"""Spatial attention on torch's scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from kernels.spatial_attention.reference import LOGIT_SCALE, cosine
from kernels.spatial_attention.rope import RopeTable


def spatial_attention(
    q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, rope: RopeTable | None = None, bias: Tensor | None = None
) -> Tensor:
    """Run torch's attention; arguments are those of `reference.spatial_attention`."""
    return attend(lambda x, scale: cosine(x, scale, rope).to(kv.dtype), q, kv, q_scale, k_scale, bias)


def attend(
    prepare: Callable[[Tensor, Tensor], Tensor],
    q: Tensor,
    kv: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Attend with queries and keys that `prepare(x, scale)` rotates, normalises and scales."""
    batch, frames, height, width = kv.shape[:4]
    k, v = kv.flatten(2, 3).flatten(0, 1).unbind(2)  # (B*T, N, H, D)
    q, k = prepare(q.flatten(2, 3).flatten(0, 1), q_scale), prepare(k, k_scale)
    mask = None if bias is None else bias.to(v.dtype)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=LOGIT_SCALE)
    return out.transpose(1, 2).unflatten(0, (batch, frames)).unflatten(2, (height, width))
