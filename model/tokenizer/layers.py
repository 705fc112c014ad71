"""The layers of the space-time transformer (section 3.1.1; docs/model.md, Tokenizer 4 to 7)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from kernels import RopeTable
from model.tokenizer.config import TokenizerConfig


class BlockState(NamedTuple):
    """The state of a block between two chunks of a clip.

    Args:
        frames: (B, 2, h, w, D), the last inputs of its positional convolution, or None before the first chunk.
        kv: (B, P, h, w, 2, heads, head_dim), keys and values of the frames still in sight, or None.
    """

    frames: Tensor | None = None
    kv: Tensor | None = None


class PEG(nn.Module):
    """Positional encoding generator: x + depthwise 3x3x3 convolution (docs/model.md, Tokenizer 4).

    Args:
        config: the tokenizer.
        temporal: whether it is in a temporal stack, where released weights need the scrambled order.
    """

    def __init__(self, config: TokenizerConfig, temporal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.uniform_(torch.empty(3, 3, 3, config.width), -(27**-0.5), 27**-0.5))
        self.bias = nn.Parameter(torch.zeros(config.width))
        self.causal = config.causal_peg
        self.order = config.temporal_order if temporal else "causal"

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """Encode positions into x (B, T, h, w, D), after `past` (B, 2, h, w, D) if there is any."""
        return kernels.peg(x, self.weight, self.bias, past=past, causal=self.causal, order=self.order)


class CosineAttention(nn.Module):
    """Projections of the attention whose queries and keys are unit vectors (docs/model.md, Tokenizer 5).

    Queries see the normalised input, keys and values the raw one: released weights depend on it.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = (config.heads, config.head_dim)
        self.norm = nn.LayerNorm(config.width)
        self.to_q = nn.Linear(config.width, inner, bias=False)
        self.to_kv = nn.Linear(config.width, 2 * inner, bias=False)
        self.q_scale = nn.Parameter(torch.ones(config.head_dim))
        self.k_scale = nn.Parameter(torch.ones(config.head_dim))
        self.to_out = nn.Linear(inner, config.width, bias=False)

    def queries(self, x: Tensor) -> Tensor:
        """Return queries (B, T, h, w, heads, head_dim)."""
        return self.to_q(self.norm(x)).unflatten(-1, self.heads)

    def keys_values(self, x: Tensor) -> Tensor:
        """Return keys and values (B, T, h, w, 2, heads, head_dim)."""
        return self.to_kv(x).unflatten(-1, (2, *self.heads))


class PositionBias(nn.Module):
    """Continuous position bias: an MLP over signed log distances of rows and columns (docs/model.md, Tokenizer 5)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width = config.width
        self.hidden = nn.ModuleList((nn.Linear(2, width), nn.Linear(width, width)))
        self.out = nn.Linear(width, config.heads)

    def forward(self, height: int, width: int) -> Tensor:
        """Return the bias (heads, h*w, h*w) of every (query, key) pair of an h x w grid."""
        like = self.out.weight
        dy = torch.arange(1 - height, height, device=like.device)
        dx = torch.arange(1 - width, width, device=like.device)
        offsets = torch.cartesian_prod(dy, dx).to(like.dtype)  # each distinct offset once, not each pair
        x = offsets.sign() * offsets.abs().log1p()
        for layer in self.hidden:
            x = F.leaky_relu(layer(x), 0.1)
        table = self.out(x)
        rows = torch.arange(height, device=like.device).repeat_interleave(width)
        columns = torch.arange(width, device=like.device).repeat(height)
        index = (rows[:, None] - rows + height - 1) * (2 * width - 1) + columns[:, None] - columns + width - 1
        return table[index].permute(2, 0, 1)


class SpatialAttention(CosineAttention):
    """Full attention within each frame."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        learned = config.additive_bias and config.spatial_position == "rel"
        self.position_bias = PositionBias(config) if learned else None

    def forward(self, x: Tensor, rope: RopeTable | None) -> Tensor:
        """Attend within each frame of x (B, T, h, w, D)."""
        bias = None if self.position_bias is None else self.position_bias(*x.shape[2:4])
        out = kernels.spatial_attention(
            self.queries(x), self.keys_values(x), self.q_scale, self.k_scale, rope=rope, bias=bias
        )
        return self.to_out(out.flatten(-2))


def alibi_slopes(heads: int) -> list[float]:
    """Return the slopes of linear distance penalties (docs/model.md, Tokenizer 5).

    For a number of heads that is not a power of two: those of the next lower one, then every second of twice that.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    if power == heads:
        return slopes
    return slopes + alibi_slopes(2 * power)[0::2][: heads - power]


class TemporalAttention(CosineAttention):
    """Attention along time at each position of the grid."""

    slopes: Tensor | None

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.causal = config.causal_attention
        self.window = config.temporal_window
        penalised = config.additive_bias and config.causal_attention
        slopes = torch.tensor(alibi_slopes(config.heads)) if penalised else None
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(self, x: Tensor, state: BlockState | None) -> tuple[Tensor, Tensor | None]:
        """Attend along time; returns the output and, where there is a state, the keys and values to carry on."""
        kv = self.keys_values(x)
        past = None if state is None else state.kv
        if x.shape[1] == 1 and past is None:
            out = kv[..., 1, :, :]  # a softmax over one key is 1
        else:
            out = kernels.temporal_attention(
                self.queries(x), kv, self.q_scale, self.k_scale,
                past_kv=past, causal=self.causal, window=self.window, slopes=self.slopes,
            )  # fmt: skip
        carried = None
        if state is not None:
            seen = kv if past is None else torch.cat((past, kv), dim=1)
            # a copy, so that the chunk's own buffer can go
            carried = seen if self.window is None else seen[:, max(0, seen.shape[1] - self.window + 1) :].clone()
        return self.to_out(out.flatten(-2)), carried


class WindowAttention(nn.Module):
    """Attention inside square windows of each frame (docs/model.md, Tokenizer 6)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = (config.heads, config.head_dim)
        self.window = config.window
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.bias_table = nn.Parameter(
            nn.init.normal_(torch.empty((2 * config.window - 1) ** 2, config.heads), std=0.02)
        )
        self.to_out = nn.Linear(inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each window of x (B, T, h, w, D)."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, *self.heads))
        return self.to_out(kernels.window_attention(qkv, self.bias_table, self.window).flatten(-2))


class FeedForward(nn.Module):
    """LayerNorm, then a GELU-gated linear unit (docs/model.md, Tokenizer 7)."""

    ALIGNMENT = 64  # values; a GPU multiplies rows of odd length several times more slowly

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.to_hidden = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.to_out = nn.Linear(config.feed_forward, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of x (..., D)."""
        to_hidden, to_out = self.weights(-self.to_out.in_features % self.ALIGNMENT if x.is_cuda else 0)
        value, gate = F.linear(self.norm(x), to_hidden).chunk(2, dim=-1)
        return F.linear(value * F.gelu(gate), to_out)

    def weights(self, spare: int) -> tuple[Tensor, Tensor]:
        """Return the two matrices with `spare` more hidden units of zeros, which change no result: gelu(0) * 0 = 0."""
        if not spare:
            return self.to_hidden.weight, self.to_out.weight
        halves = self.to_hidden.weight.unflatten(0, (2, -1))
        return F.pad(halves, (0, 0, 0, spare)).flatten(0, 1), F.pad(self.to_out.weight, (0, spare))
