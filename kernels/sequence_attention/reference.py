"""The definition of attention within sequences, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SequenceArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        qkv (Tensor): shape (R, N, 3, H, D), queries, keys and values of R sequences of N positions.
    """

    qkv: Tensor


def sequence_attention(args: SequenceArgs) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v within each sequence, with arithmetic in float32.

    Returns:
        Tensor: shape (R, N, H, D), dtype of `qkv`.
    """
    q, k, v = (args.qkv if args.qkv.dtype == torch.float64 else args.qkv.float()).unbind(2)
    weights = (torch.einsum("rihd,rjhd->rhij", q, k) * q.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("rhij,rjhd->rihd", weights, v).to(args.qkv.dtype)
