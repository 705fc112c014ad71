"""The definition of attention with a fixed maximum, on any device."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from kernels.spatial_attention.reference import LOGIT_SCALE

EXPONENT_SCALE = LOGIT_SCALE / math.log(2)  # in the queries, since the kernel computes powers of two


class FixedMaxArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        qkv (Tensor): shape (M, 3, H, D); M is a multiple of `positions`. The queries contain `EXPONENT_SCALE`.
        positions (int): rows of a frame.
        bound (float): upper bound of |q k^T|, max |s t| for unit vectors with learned scales s and t.
        bias (Tensor): additive logits, shape (H, positions, positions), or None.
    """

    qkv: Tensor
    positions: int
    bound: float
    bias: Tensor | None = None


def attention_fixed_max(args: FixedMaxArgs) -> Tensor:
    """Attend within each frame, with probabilities proportional to 2^(q k^T) e^bias.

    Returns:
        Tensor: shape (M, H, D), dtype of `qkv`.
    """
    qkv, positions, _, bias = args
    wide = qkv if qkv.dtype.itemsize == 8 else qkv.float()
    q, k, v = wide.unflatten(0, (-1, positions)).transpose(1, 3).unbind(2)  # (frames, H, positions, D)
    logits = math.log(2) * (q @ k.transpose(2, 3))
    if bias is not None:
        logits = logits + bias
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(0, 1).to(qkv.dtype)
