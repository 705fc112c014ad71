"""Static memory of keys and values for decoding, passed into the network."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer, for sequences that each own one slot.

    Args:
        layers, heads, head_dim: of the network.
        slots: sequences that fit at once.
        positions: tokens of the longest sequence.
        dtype, device: of the stored values.
    """

    def __init__(
        self,
        layers: int,
        slots: int,
        heads: int,
        positions: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.data = torch.zeros(layers, 2, slots, heads, positions, head_dim, dtype=dtype, device=device)

    def layer(self, index: int) -> Tensor:
        """Return the keys and values of a layer: (2, slots, heads, positions, head_dim), a view."""
        return self.data[index]

    @property
    def slots(self) -> int:
        """Return the number of sequences that fit."""
        return self.data.shape[2]

    @property
    def positions(self) -> int:
        """Return the number of tokens that a slot holds."""
        return self.data.shape[4]
