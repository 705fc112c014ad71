"""The definition of spatial attention, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from kernels.spatial_attention.rope import RopeTable, rotate

LOGIT_SCALE = 8.0  # a constant of the published model


def cosine(x: Tensor, scale: Tensor, rope: RopeTable | None = None) -> Tensor:
    """Rotate, l2-normalise and scale queries or keys in float32 (float64 stays).

    Args:
        x: (..., N, H, D).
        scale: (D,).
        rope: tables of N positions, or None.
    """
    x = x if x.dtype.itemsize == 8 else x.float()
    if rope is not None:
        x = rotate(x, rope)
    return F.normalize(x, dim=-1) * scale


class SpatialArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        q (Tensor): shape (B, T, h, w, H, D).
        kv (Tensor): shape (B, T, h, w, 2, H, D), keys and values; may be strided.
        q_scale, k_scale (Tensor): shape (D,), learned.
        rope (RopeTable): cosines and sines of the positions of an h x w grid, or None.
        bias (Tensor): additive logits, shape (H, h*w, h*w), or None.
    """

    q: Tensor
    kv: Tensor
    q_scale: Tensor
    k_scale: Tensor
    rope: RopeTable | None = None
    bias: Tensor | None = None


def spatial_attention(args: SpatialArgs) -> Tensor:
    """Return softmax(8 q k^T + bias) v within each frame, for rotated, l2-normalised and scaled q and k.

    Returns:
        Tensor: shape (B, T, h, w, H, D), dtype of `kv`.
    """
    q, kv, q_scale, k_scale, rope, bias = args
    k, v = kv.flatten(2, 3).unbind(3)  # (B, T, N, H, D)
    q, k = cosine(q.flatten(2, 3), q_scale, rope), cosine(k, k_scale, rope)
    logits = LOGIT_SCALE * (q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2))  # (B, T, H, N, N)
    if bias is not None:
        logits = logits + bias
    out = logits.softmax(-1) @ v.transpose(2, 3).to(logits.dtype)
    return out.transpose(2, 3).to(v.dtype).unflatten(2, kv.shape[2:4])
