"""Encoder and decoder of whole images and clips on prepared weights and fused kernels (section 3.1.1).

Tokens are one matrix (B * t * h * w, D) that every operator reads and writes once; residuals are added where a product
is written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from kernels import RopeTable, rope_table
from kernels.vq import CodeTable, prepare
from model.inference.weights import (
    AttentionWeights,
    EmbedWeights,
    FeedForwardWeights,
    FullWeights,
    StackWeights,
    TemporalWeights,
    WindowWeights,
    code_table,
    embed_weights,
    stack_weights,
)
from model.tokenizer.heads import VAEHead, VQHead
from model.tokenizer.tokenizer import OmniTokenizer


class Grid(NamedTuple):
    """Size of the latent grid."""

    batch: int
    frames: int
    height: int
    width: int


class Network:
    """A tokenizer's networks, prepared.

    Args:
        tokenizer: on the device where it shall run; its weights are copied where they are merged, else shared.
    """

    def __init__(self, tokenizer: OmniTokenizer) -> None:
        config = tokenizer.config
        self._config = config
        self._dtype = tokenizer.dtype
        self._head = tokenizer.head
        self._first, self._later = embed_weights(tokenizer.encoder.embed)
        self._encoder = stack_weights(tokenizer.encoder.spatial), stack_weights(tokenizer.encoder.temporal)
        self._decoder = stack_weights(tokenizer.decoder.temporal), stack_weights(tokenizer.decoder.spatial)
        self._to_pixels = tokenizer.decoder.pixels
        self._rope: dict[tuple[int, int, torch.device], RopeTable] = {}
        self._codes: Tensor | None = None
        self._search: CodeTable | None = None
        if isinstance(self._head, VQHead):
            self._search = prepare(self._head.codebook)
            self._codes = code_table(self._head.codebook, self._head.from_code, self._dtype)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode padded pixels.

        Args:
            pixels: uint8 (B, 1 + k * temporal_patch, H, W, 3), H and W multiples of the patch.

        Returns:
            VQ: unit vectors (B, t, h, w, d) in float32 and int64 tokens (B, t, h, w). VAE: mean and log variance
            (B, t, h, w, c).
        """
        x, grid = self._embed(pixels)
        for stack in self._encoder[:-1]:
            x = self._stack(stack, x, grid)
        x = self._blocks(self._encoder[-1], x, grid)
        norm, head = self._encoder[-1].norm_out, self._head
        if isinstance(head, VQHead):
            vectors = kernels.vq_project(x, norm.weight, norm.bias, head.to_code.weight, head.to_code.bias)
            vectors = vectors.view(*grid, -1)
            return vectors, kernels.vq_assign(vectors, head.codebook, table=self._search)
        assert isinstance(head, VAEHead)
        return head(_normed(norm, x).view(*grid, -1))

    def decode(self, codes: Tensor) -> Tensor:
        """Decode tokens (B, t, h, w) or latents (B, t, h, w, c) to padded uint8 pixels (B, T, H, W, 3)."""
        grid = Grid(*codes.shape[:4])
        if self._codes is not None:
            x = F.embedding(codes.reshape(-1), self._codes)
        else:
            x = self._head.expand(codes.flatten(0, 3)).to(self._dtype)
        for stack in self._decoder:
            x = self._stack(stack, x, grid)
        return self._pixels(x, grid)

    def _embed(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        batch, frames, height, width = pixels.shape[:4]
        grid = Grid(batch, *self._config.geometry.grid((frames, height, width)))
        first = self._patches(self._first, pixels[:, :1], 1, 0)
        if frames == 1:
            return first, grid
        # each part is copied once to adjoin the other; the parts of a clip are not contiguous
        parts = [first, self._patches(self._later, pixels, self._config.temporal_patch, 1)]
        return torch.cat([part.view(batch, -1, part.shape[-1]) for part in parts], dim=1).flatten(0, 1), grid

    def _patches(self, weights: EmbedWeights, pixels: Tensor, frames: int, start: int) -> Tensor:
        vectors = kernels.patchify(
            pixels, self._config.patch, frames, start, dtype=self._dtype, normed=weights.normed
        ).flatten(0, 3)
        return _normed(weights.norm_out, F.linear(vectors, weights.matrix, weights.bias))

    def _pixels(self, x: Tensor, grid: Grid) -> Tensor:
        layers, patch, group = self._to_pixels, self._config.patch, self._config.temporal_patch
        x = x.view(grid.batch, grid.frames, grid.height * grid.width, -1)
        first = _batched(x[:, 0], layers.first).view(grid.batch, 1, grid.height, grid.width, -1)
        if grid.frames == 1:
            return kernels.unpatchify(first, None, patch, group, layers.first.bias)
        later = _batched(x[:, 1:].flatten(1, 2), layers.later)
        later = later.view(grid.batch, -1, grid.height, grid.width, later.shape[-1])
        return kernels.unpatchify(first, later, patch, group, layers.first.bias, layers.later.bias)

    def _stack(self, stack: StackWeights, x: Tensor, grid: Grid) -> Tensor:
        return _normed(stack.norm_out, self._blocks(stack, x, grid))

    def _blocks(self, stack: StackWeights, x: Tensor, grid: Grid) -> Tensor:
        rope = None if stack.rotary_dim is None else self._table(grid, stack.rotary_dim, x.device)
        for block in stack.blocks:
            if isinstance(block, FullWeights):
                x = _full(block, x, grid, self._config.heads, rope)
            elif isinstance(block, WindowWeights):
                x = _window(block, x, grid, self._config.window, self._config.heads)
            else:
                x = _temporal(block, x, grid, self._config.heads)
            x = _feed_forward(block.feed_forward, x)
        return x

    def _table(self, grid: Grid, dim: int, device: torch.device) -> RopeTable:
        key = grid.height, grid.width, device
        if key not in self._rope:
            self._rope[key] = rope_table(grid.height, grid.width, dim, device)
        return self._rope[key]


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return kernels.layer_norm(x, norm.weight, norm.bias)


def _batched(x: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a linear layer but for its bias to (B, N, D) whose items are not contiguous, without a copy."""
    return torch.bmm(x, layer.weight.t().expand(len(x), -1, -1))


def _positions(peg: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    return peg(x.view(*grid, -1)).flatten(0, 3)


def _inputs(weights: AttentionWeights, x: Tensor, heads: int, rope: RopeTable | None, scaled: bool) -> Tensor:
    """Return queries, keys and values (M, 3, heads, head_dim)."""
    cos, sin = (None, None) if rope is None else rope
    weight, shift = weights.inputs
    q_scale, k_scale = (weights.q_scale, weights.k_scale) if scaled else (None, None)
    rstd = kernels.inverse_deviation(x) if weights.normed else None
    return kernels.attention_inputs(x, rstd, weight, weights.normed, cos, sin, q_scale, k_scale, heads, shift)


def _full(block: FullWeights, x: Tensor, grid: Grid, heads: int, rope: RopeTable | None) -> Tensor:
    x = _positions(block.peg, x, grid)
    qkv = _inputs(block.attention, x, heads, rope, scaled=True)
    bias = None if block.bias is None else block.bias(grid.height, grid.width)
    out = kernels.attention_fixed_max(qkv, grid.height * grid.width, block.bound, bias)
    return _add(x, out.flatten(1), block.attention.out)


def _window(block: WindowWeights, x: Tensor, grid: Grid, window: int, heads: int) -> Tensor:
    qkv = _inputs(block.attention, x, heads, None, scaled=False)
    out = kernels.window_attention(qkv.view(*grid, *qkv.shape[1:]), block.bias_table, window)
    attention = block.attention
    return kernels.residual_linear(out.flatten(0, 3).flatten(1), attention.out, attention.out_bias, x)


def _temporal(block: TemporalWeights, x: Tensor, grid: Grid, heads: int) -> Tensor:
    x = _positions(block.peg, x, grid)
    if grid.frames == 1:
        return kernels.residual_linear(x, block.still, None, x)
    qkv = _inputs(block.attention, x, heads, None, scaled=False)
    qkv = qkv.view(*grid, *qkv.shape[1:])
    layer = block.layer
    out = kernels.temporal_attention(
        qkv[..., 0, :, :], qkv[..., 1:, :, :], layer.q_scale, layer.k_scale,
        causal=layer.causal, window=layer.window, slopes=layer.slopes,
    )  # fmt: skip
    return _add(x, out.flatten(0, 3).flatten(1), block.attention.out)


def _feed_forward(weights: FeedForwardWeights, x: Tensor) -> Tensor:
    hidden = kernels.gated_linear(x, kernels.inverse_deviation(x), *weights.hidden)
    return _add(x, hidden, weights.out)


def _add(x: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    """Add a weight^T to x in place, by the library.

    Where there is a bias too, or x itself is what is multiplied, a kernel of ours writes elsewhere and is faster.
    """
    return x.addmm_(a, weight.t())
