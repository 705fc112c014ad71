"""Stacks of spatial and temporal layers, whole or chunk by chunk (section 3.1.1; docs/model.md, Tokenizer 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels import RopeTable, rope_table
from model.tokenizer.config import TokenizerConfig
from model.tokenizer.layers import PEG, BlockState, FeedForward, SpatialAttention, TemporalAttention, WindowAttention


def _carry_frames(x: Tensor, past: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Return the two frames before x, and the last two including x, zeros standing in for those before the clip."""
    if past is None:
        past = x.new_zeros(x.shape[0], 2, *x.shape[2:])
    return past, torch.cat((past, x[:, -2:]), dim=1)[:, -2:].clone()


class AttentionBlock(nn.Module):
    """A "t" or a temporal layer: positions, full attention in space or time, feed-forward, each with a residual."""

    def __init__(self, config: TokenizerConfig, temporal: bool) -> None:
        super().__init__()
        self.peg = PEG(config, temporal)
        self.attention = TemporalAttention(config) if temporal else SpatialAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rope: RopeTable | None, state: BlockState | None) -> tuple[Tensor, BlockState | None]:
        past = frames = kv = None
        if state is not None:
            past, frames = _carry_frames(x, state.frames)
        x = self.peg(x, past)
        if isinstance(self.attention, TemporalAttention):
            attended, kv = self.attention(x, state)
        else:
            attended = self.attention(x, rope)
        x = x + attended
        return x + self.feed_forward(x), None if state is None else BlockState(frames, kv)


class WindowBlock(nn.Module):
    """A "w" layer: window attention and feed-forward, each with a residual; nothing to carry."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.attention = WindowAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rope: RopeTable | None, state: BlockState | None) -> tuple[Tensor, BlockState | None]:
        x = x + self.attention(x)
        return x + self.feed_forward(x), state


class Stack(nn.Module):
    """Blocks of one kind of attention, closed by a LayerNorm.

    Args:
        config: the tokenizer.
        blocks: the block string of a spatial stack, or None for the temporal one.
    """

    def __init__(self, config: TokenizerConfig, blocks: str | None) -> None:
        super().__init__()
        temporal = blocks is None
        letters = "t" * config.temporal_layers if blocks is None else blocks
        self.blocks = nn.ModuleList(
            AttentionBlock(config, temporal) if letter == "t" else WindowBlock(config) for letter in letters
        )
        self.norm_out = nn.LayerNorm(config.width)
        self.rotary_dim = config.head_dim if not temporal and config.spatial_position == "rope" else None

    def forward(self, x: Tensor, states: Sequence[BlockState] | None = None) -> tuple[Tensor, list[BlockState]]:
        """Run x (B, T, h, w, D) through the stack.

        Args:
            x: tokens.
            states: what each block carried here from the chunk before, or None for a whole clip.

        Returns:
            The tokens, and the states to carry on (empty for a whole clip).
        """
        rope = None if self.rotary_dim is None else rope_table(x.shape[2], x.shape[3], self.rotary_dim, x.device)
        carried: list[BlockState] = []
        for index, block in enumerate(self.blocks):
            x, state = block(x, rope, None if states is None else states[index])
            if state is not None:
                carried.append(state)
        return self.norm_out(x), carried

    def initial(self) -> list[BlockState]:
        """Return the states before the first chunk."""
        return [BlockState() for _ in self.blocks]
