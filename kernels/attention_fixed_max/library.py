"""Attention with a fixed maximum on torch's scaled_dot_product_attention, which finds its own maximum."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def attention_fixed_max(qkv: Tensor, positions: int, bound: float, bias: Tensor | None = None) -> Tensor:
    """Run torch's attention; arguments are those of `reference.attention_fixed_max`."""
    q, k, v = qkv.unflatten(0, (-1, positions)).transpose(1, 3).unbind(2)  # (frames, H, positions, D)
    mask = None if bias is None else bias.to(qkv.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=math.log(2))
    return out.transpose(1, 2).flatten(0, 1)
