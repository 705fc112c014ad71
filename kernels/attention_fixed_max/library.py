"""Attention with a fixed maximum on torch's scaled_dot_product_attention, which finds its own maximum."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kernels.attention_fixed_max.reference import FixedMaxArgs
from kernels.runtime.dispatch import Implementation


def attention_fixed_max(args: FixedMaxArgs) -> Tensor:
    """Run torch's attention."""
    qkv, positions, _, bias = args
    q, k, v = qkv.unflatten(0, (-1, positions)).transpose(1, 3).unbind(2)  # (frames, H, positions, D)
    mask = None if bias is None else bias.to(qkv.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=math.log(2))
    return out.transpose(1, 2).flatten(0, 1)


TORCH = Implementation(attention_fixed_max)
