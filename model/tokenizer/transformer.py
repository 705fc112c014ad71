"""Stacks of spatial and temporal layers, whole or chunk by chunk (section 3.1.1; docs/model.md, Tokenizer 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels import RopeTable, rope_table
from model.tokenizer.config import TokenizerConfig
from model.tokenizer.layers import PEG, BlockState, FeedForward, SpatialAttention, TemporalAttention, WindowAttention


def _carry_frames(x: Tensor, past: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """The two frames before x, and the last two including x, zeros standing in for those before the clip."""
    if past is None:
        past = x.new_zeros(x.shape[0], 2, *x.shape[2:])
    return past, torch.cat((past, x[:, -2:]), dim=1)[:, -2:].clone()


class FullBlock(nn.Module):
    """A "t" layer: positions, full spatial attention, feed-forward, each with a residual."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.peg = PEG(config, temporal=False)
        self.attention = SpatialAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rope: RopeTable | None, state: BlockState | None) -> tuple[Tensor, BlockState | None]:
        past = None
        if state is not None:
            past, frames = _carry_frames(x, state.frames)
            state = BlockState(frames=frames)
        x = self.peg(x, past)
        x = x + self.attention(x, rope)
        return x + self.feed_forward(x), state


class WindowBlock(nn.Module):
    """A "w" layer: window attention and feed-forward, each with a residual; nothing to carry."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.attention = WindowAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rope: RopeTable | None, state: BlockState | None) -> tuple[Tensor, BlockState | None]:
        x = x + self.attention(x)
        return x + self.feed_forward(x), state


class TemporalBlock(nn.Module):
    """A temporal layer: positions, attention along time, feed-forward, each with a residual."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.peg = PEG(config, temporal=True)
        self.attention = TemporalAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rope: RopeTable | None, state: BlockState | None) -> tuple[Tensor, BlockState | None]:
        past = frames = None
        if state is not None:
            past, frames = _carry_frames(x, state.frames)
        x = self.peg(x, past)
        attended, kv = self.attention(x, state)
        x = x + attended
        return x + self.feed_forward(x), None if state is None else BlockState(frames, kv)


class Stack(nn.Module):
    """Blocks of one kind of attention, closed by a LayerNorm.

    Args:
        config: the tokenizer.
        blocks: the block string of a spatial stack, or None for the temporal one.
    """

    def __init__(self, config: TokenizerConfig, blocks: str | None) -> None:
        super().__init__()
        kinds = {"t": FullBlock, "w": WindowBlock}
        built = (
            [TemporalBlock(config) for _ in range(config.temporal_layers)]
            if blocks is None
            else [kinds[letter](config) for letter in blocks]
        )
        self.blocks = nn.ModuleList(built)
        self.norm_out = nn.LayerNorm(config.width)
        self.rotary_dim = config.head_dim if blocks is not None and config.spatial_position == "rope" else None

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
        """States before the first chunk."""
        return [BlockState() for _ in self.blocks]
