"""Spatial attention on torch's scaled_dot_product_attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.spatial_attention.reference import LOGIT_SCALE, cosine
from kernels.spatial_attention.rope import RopeTable


def spatial_attention(
    q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, rope: RopeTable | None = None, bias: Tensor | None = None
) -> Tensor:
    batch, frames, height, width = kv.shape[:4]
    k, v = kv.flatten(2, 3).flatten(0, 1).unbind(2)  # (B*T, N, H, D)
    q = cosine(q.flatten(2, 3).flatten(0, 1), q_scale, rope).to(v.dtype)
    k = cosine(k, k_scale, rope).to(v.dtype)
    mask = None if bias is None else bias.to(v.dtype)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=LOGIT_SCALE)
    return out.transpose(1, 2).unflatten(0, (batch, frames)).unflatten(2, (height, width))
