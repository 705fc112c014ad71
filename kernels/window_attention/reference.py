"""The definition of window attention: full attention under a mask that keeps each window to itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def relative_index(rows: Tensor, columns: Tensor, window: int) -> Tensor:
    """Return the bias table's row for every (query, key) pair of positions that share a window.

    Args:
        rows, columns: int64 (N,), coordinates of the positions.
        window: side of a window.

    Returns:
        int64 (N, N).
    """
    dy = rows[:, None] - rows[None, :]
    dx = columns[:, None] - columns[None, :]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


class WindowArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        qkv (Tensor): shape (B, T, h, w, 3, H, D).
        bias_table (Tensor): shape ((2*window - 1)^2, H); row (dy + window - 1) * (2*window - 1) + dx + window - 1 is
            the bias for a query dy rows and dx columns after its key.
        window (int): side of a window, in tokens.
    """

    qkv: Tensor
    bias_table: Tensor
    window: int


def window_attention(args: WindowArgs) -> Tensor:
    """Return softmax(q k^T / sqrt(D) + bias) v among the tokens of each window.

    Windows start at the top left; the last ones are smaller if the window does not divide the grid.

    Returns:
        Tensor: shape (B, T, h, w, H, D), dtype of `qkv`.
    """
    qkv, bias_table, window = args
    height, width = qkv.shape[2:4]
    q, k, v = qkv.flatten(2, 3).unbind(3)  # (B, T, N, H, D)
    rows = torch.arange(height, device=qkv.device).repeat_interleave(width)
    columns = torch.arange(width, device=qkv.device).repeat(height)
    window_id = rows // window * width + columns // window
    masked = window_id[:, None] != window_id[None, :]
    index = relative_index(rows, columns, window).masked_fill(masked, 0)
    logits = (q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)) * q.shape[-1] ** -0.5
    logits = logits + bias_table[index].permute(2, 0, 1)
    out = logits.masked_fill(masked, -torch.inf).softmax(-1).to(v.dtype) @ v.transpose(2, 3)
    return out.transpose(2, 3).unflatten(2, (height, width))
