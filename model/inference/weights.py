"""A tokenizer's weights as the fused kernels want them: norms folded in, products of two matrices merged.

Everything is computed in float32 once, when a model is loaded, and rounded to the model's precision last.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import EXPONENT_SCALE, Folded, fold, interleave_gates
from model.tokenizer.layers import (
    PEG,
    FeedForward,
    PositionBias,
    SpatialAttention,
    TemporalAttention,
    WindowAttention,
)
from model.tokenizer.patches import PatchEmbed
from model.tokenizer.transformer import AttentionBlock, Stack, WindowBlock

ALIGNMENT = 64  # hidden units; the fused products go through rows of whole multiples


class FeedForwardWeights(NamedTuple):
    """Folded (2F, D) matrix of interleaved values and gates, and (D, F) output matrix; F padded with units of zero."""

    hidden: Folded
    out: Tensor


class AttentionWeights(NamedTuple):
    """Projections of one attention.

    Args:
        inputs: folded (3 * heads * head_dim, D) matrix of queries, keys and values.
        normed: leading rows whose product is divided by the deviations of the input and shifted.
        q_scale, k_scale: (head_dim,), or None in windows; what turns logits to exponents of two is in the first.
        out: (D, heads * head_dim).
        out_bias: (D,) or None.
    """

    inputs: Folded
    normed: int
    q_scale: Tensor | None
    k_scale: Tensor | None
    out: Tensor
    out_bias: Tensor | None


class FullWeights(NamedTuple):
    """A "t" layer.

    Args:
        bound: what no exponent of its attention exceeds.
        bias: makes the additive logits of a grid, where the model has them.
    """

    peg: PEG
    attention: AttentionWeights
    bound: float
    bias: PositionBias | None
    feed_forward: FeedForwardWeights


class WindowWeights(NamedTuple):
    """A "w" layer."""

    attention: AttentionWeights
    bias_table: Tensor
    feed_forward: FeedForwardWeights


class TemporalWeights(NamedTuple):
    """A temporal layer; `still` (D, D) is values, then output: all that attention over one frame comes to."""

    peg: PEG
    attention: AttentionWeights
    still: Tensor
    layer: TemporalAttention
    feed_forward: FeedForwardWeights


BlockWeights = FullWeights | WindowWeights | TemporalWeights


class StackWeights(NamedTuple):
    """The blocks of a stack and the norm that closes it."""

    blocks: list[BlockWeights]
    norm_out: nn.LayerNorm
    rotary_dim: int | None


class EmbedWeights(NamedTuple):
    """One patch embedding: matrix (D, values) and bias (D,) after a bare norm of the patch, then a LayerNorm."""

    normed: bool
    matrix: Tensor
    bias: Tensor
    norm_out: nn.LayerNorm


def stack_weights(stack: Stack) -> StackWeights:
    """Prepare a stack."""
    return StackWeights([_block(block) for block in stack.blocks], stack.norm_out, stack.rotary_dim)


def embed_weights(embed: PatchEmbed) -> tuple[EmbedWeights, EmbedWeights]:
    """Prepare the embeddings of the first frame and of the later ones."""
    prepared = []
    for part in (embed.first, embed.later):
        norm, proj = part.norm_in, part.proj
        matrix, bias = proj.weight.float(), proj.bias.float()
        normed = isinstance(norm, nn.LayerNorm)
        if isinstance(norm, nn.LayerNorm):
            bias = bias + matrix @ norm.bias.float()
            matrix = matrix * norm.weight.float()
        dtype = proj.weight.dtype
        prepared.append(EmbedWeights(normed, matrix.to(dtype), bias.to(dtype), part.norm_out))
    return prepared[0], prepared[1]


def _block(block: nn.Module) -> BlockWeights:
    if isinstance(block, WindowBlock):
        return WindowWeights(_window(block.attention), block.attention.bias_table, _feed_forward(block.feed_forward))
    assert isinstance(block, AttentionBlock)
    layer, feed_forward = block.attention, _feed_forward(block.feed_forward)
    attention = _cosine(layer)
    if isinstance(layer, TemporalAttention):
        values = layer.to_kv.weight.float().chunk(2)[1]
        still = (layer.to_out.weight.float() @ values).to(layer.to_out.weight.dtype)
        return TemporalWeights(block.peg, attention, still, layer, feed_forward)
    q_scale, k_scale = EXPONENT_SCALE * layer.q_scale.float(), layer.k_scale.float()
    bound = float((q_scale * k_scale).abs().max())
    attention = attention._replace(q_scale=q_scale, k_scale=k_scale)
    return FullWeights(block.peg, attention, bound, layer.position_bias, feed_forward)


def _cosine(attention: SpatialAttention | TemporalAttention) -> AttentionWeights:
    """Merge projections of queries, which see the normalised input, and of keys and values, which see the raw one.

    Where the LayerNorm's bias is zero (the published code does not train it), all that is left of the LayerNorm is in
    the centred weight: queries are made unit vectors later, which dividing them does not change.
    """
    q, kv, norm = attention.to_q.weight, attention.to_kv.weight, attention.norm
    queries = fold(norm.weight, norm.bias, q, None, q.dtype)
    raw = kv.new_zeros(len(kv), dtype=torch.float32)
    inputs = Folded(torch.cat((queries.weight, kv)), torch.cat((queries.shift, raw)))
    normed = len(q) if queries.shift.any() else 0
    return AttentionWeights(inputs, normed, attention.q_scale, attention.k_scale, attention.to_out.weight, None)


def _window(attention: WindowAttention) -> AttentionWeights:
    weight, norm = attention.qkv.weight, attention.norm
    inputs = fold(norm.weight, norm.bias, weight, None, weight.dtype)
    return AttentionWeights(inputs, len(weight), None, None, attention.to_out.weight, attention.to_out.bias)


def _feed_forward(layer: FeedForward) -> FeedForwardWeights:
    hidden, out = layer.weights(-layer.to_out.in_features % ALIGNMENT)
    norm = layer.norm
    folded = fold(norm.weight, norm.bias, interleave_gates(hidden), None, hidden.dtype)
    return FeedForwardWeights(folded, out.contiguous())


def code_table(codebook: Tensor, from_code: nn.Linear, dtype: torch.dtype) -> Tensor:
    """Return the decoder's input for every code, (codes, D): lookup and expansion in one."""
    return F.linear(codebook.float(), from_code.weight.float(), from_code.bias.float()).to(dtype).contiguous()
