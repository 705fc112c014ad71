"""Temporal attention on torch's scaled_dot_product_attention, every position a batch row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.runtime.dispatch import Implementation
from kernels.spatial_attention.reference import LOGIT_SCALE, cosine
from kernels.temporal_attention.reference import TemporalArgs, time_bias


def temporal_attention(args: TemporalArgs) -> Tensor:
    """Run torch's attention."""
    q, kv, q_scale, k_scale, past_kv, causal, window, slopes = args
    kv = kv if past_kv is None else torch.cat((past_kv, kv), dim=1)
    batch, _, height, width = kv.shape[:4]
    k, v = kv.unbind(4)
    q, k = cosine(q, q_scale).to(v.dtype), cosine(k, k_scale).to(v.dtype)
    bias = time_bias(q.shape[1], k.shape[1], causal, window, slopes, q)
    q, k, v = (x.permute(0, 2, 3, 4, 1, 5).flatten(0, 2) for x in (q, k, v))  # (B*h*w, H, T, D)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=LOGIT_SCALE)
    return out.unflatten(0, (batch, height, width)).permute(0, 4, 1, 2, 3, 5)


TORCH = Implementation(temporal_attention)
