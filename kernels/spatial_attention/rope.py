"""Two-dimensional rotary positions (docs/model.md, Tokenizer 5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RopeTable(NamedTuple):
    """Cosines and sines of every position's angles, each float32 of shape (h*w, D/2)."""

    cos: Tensor
    sin: Tensor


def rope_table(height: int, width: int, head_dim: int, device: torch.device | None = None) -> RopeTable:
    """Return the angles of an h x w grid in raster order: pair 2i rotates by column, pair 2i + 1 by row.

    Args:
        height, width: the latent grid.
        head_dim: D, a multiple of 4; frequencies are 10000^(-4i/D) for i < D/4.
        device: of the tables.
    """
    if head_dim % 4:
        raise ValueError(f"head_dim={head_dim} must be a multiple of 4 for two-dimensional rotary positions.")
    exponents = torch.arange(0, head_dim, 4, dtype=torch.float32, device=device) / head_dim
    frequencies = 10000.0**-exponents
    columns = torch.arange(width, dtype=torch.float32, device=device).repeat(height)
    rows = torch.arange(height, dtype=torch.float32, device=device).repeat_interleave(width)
    angles = torch.stack((torch.outer(columns, frequencies), torch.outer(rows, frequencies)), dim=-1).flatten(1)
    return RopeTable(angles.cos(), angles.sin())


def rotate(x: Tensor, rope: RopeTable) -> Tensor:
    """Rotate adjacent channel pairs by their position's angle.

    Args:
        x: (..., N, H, D) float32, positions in raster order.
        rope: tables of N positions.
    """
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope.cos.unsqueeze(-2), rope.sin.unsqueeze(-2)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
