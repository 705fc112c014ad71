"""Spatial attention on torch's scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from kernels.runtime.dispatch import Implementation
from kernels.spatial_attention.reference import LOGIT_SCALE, SpatialArgs, cosine


def spatial_attention(args: SpatialArgs) -> Tensor:
    """Run torch's attention."""
    return attend(args, lambda x, scale: cosine(x, scale, args.rope).to(args.kv.dtype))


def attend(args: SpatialArgs, prepare: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Attend with queries and keys that `prepare(x, scale)` rotates, normalises and scales."""
    batch, frames, height, width = args.kv.shape[:4]
    k, v = args.kv.flatten(2, 3).flatten(0, 1).unbind(2)  # (B*T, N, H, D)
    q, k = prepare(args.q.flatten(2, 3).flatten(0, 1), args.q_scale), prepare(k, args.k_scale)
    mask = None if args.bias is None else args.bias.to(v.dtype)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=LOGIT_SCALE)
    return out.transpose(1, 2).unflatten(0, (batch, frames)).unflatten(2, (height, width))


TORCH = Implementation(spatial_attention)
