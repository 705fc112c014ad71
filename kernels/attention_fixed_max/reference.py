"""The definition of attention with bounded logits, readable and on any device."""

from __future__ import annotations

import math

from torch import Tensor

from kernels.spatial_attention.reference import LOGIT_SCALE

EXPONENT_SCALE = LOGIT_SCALE / math.log(2)  # into the scale of queries, so that exponents of two come out


def attention_fixed_max(qkv: Tensor, positions: int, bound: float, bias: Tensor | None = None) -> Tensor:
    """Attention within each frame, its probabilities in proportion to 2^(q k^T) e^bias.

    Args:
        qkv (Tensor): shape (M, 3, H, D); queries, keys and values, prepared but for the softmax; M a multiple of
            `positions`. `EXPONENT_SCALE` is in the queries.
        positions (int): rows of a frame.
        bound (float): what no |q k^T| exceeds, in powers of two. Unit vectors q and k times learned scales s and t keep
            to max |s t|.
        bias (Tensor): additive logits, shape (H, positions, positions), or None.

    Returns:
        Tensor: shape (M, H, D), dtype of `qkv`.
    """
    wide = qkv if qkv.dtype.itemsize == 8 else qkv.float()
    q, k, v = wide.unflatten(0, (-1, positions)).transpose(1, 3).unbind(2)  # (frames, H, positions, D)
    logits = math.log(2) * (q @ k.transpose(2, 3))
    if bias is not None:
        logits = logits + bias
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(0, 1).to(qkv.dtype)
