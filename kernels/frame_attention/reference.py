"""The definition of attention along frames, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class FrameArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        qkv (Tensor): shape (B, T, N, 3, H, D), queries, keys and values of N positions in T frames.
    """

    qkv: Tensor


def frame_attention(args: FrameArgs) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v over the frames of each position, with arithmetic in float32.

    Returns:
        Tensor: shape (B, T, N, H, D), dtype of `qkv`.
    """
    q, k, v = (args.qkv if args.qkv.dtype == torch.float64 else args.qkv.float()).unbind(3)
    weights = (torch.einsum("binhd,bjnhd->bnhij", q, k) * q.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("bnhij,bjnhd->binhd", weights, v).to(args.qkv.dtype)
