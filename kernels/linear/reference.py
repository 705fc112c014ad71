"""The definition of the fused products, on any device.

`fold` merges a LayerNorm into the product after it. Let W'[n] = W[n] gamma minus its mean over k, which removes the
mean of x from every product, and c[n] = (W beta)[n] + bias[n]. Then

    LN(x) W^T + bias = rstd x W'^T + c
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.runtime.device import MMA_COLUMNS
from kernels.spatial_attention.reference import cosine
from kernels.spatial_attention.rope import RopeTable

CORRECTED_PER_ROW = 16  # elements of a row that absorb its rounding error
GATE_GROUP = MMA_COLUMNS  # a thread of a tensor core's result then holds a value and its gate


class Folded(NamedTuple):
    """A product with its LayerNorm folded in.

    Args:
        weight (Tensor): shape (N, C), in the dtype of the product; each row sums to zero.
        shift (Tensor): shape (N,), float32.
    """

    weight: Tensor
    shift: Tensor


def fold(
    norm_weight: Tensor, norm_bias: Tensor | None, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Folded:
    """Fold a LayerNorm's weight and bias into the product after it, once, when weights are loaded.

    Args:
        norm_weight, norm_bias: the LayerNorm's, shape (C,).
        weight, bias: the product's, shape (N, C) and (N,).
        dtype: of the folded weight.
    """
    exact = weight.detach().float()
    scaled = exact * norm_weight.detach().float()
    rounded = (scaled - scaled.mean(1, keepdim=True)).to(dtype).float()
    # the row's smallest elements absorb the rounding error of its sum, since they round most finely
    least = rounded.abs().topk(min(CORRECTED_PER_ROW, rounded.shape[1]), largest=False).indices
    rounded.scatter_add_(1, least, (-rounded.sum(1, keepdim=True) / least.shape[1]).expand_as(least))
    shift = torch.zeros_like(exact[:, 0]) if norm_bias is None else exact @ norm_bias.detach().float()
    if bias is not None:
        shift = shift + bias.detach().float()
    return Folded(rounded.to(dtype).contiguous(), shift.contiguous())


def interleave_gates(rows: Tensor) -> Tensor:
    """Reorder the rows of a gated product: alternately GATE_GROUP values and their gates, as `gated_linear` takes them.

    Args:
        rows: a weight or a bias (2 F, ...), all values before all gates; F is a multiple of GATE_GROUP.
    """
    return rows.unflatten(0, (2, -1, GATE_GROUP)).transpose(0, 1).flatten(0, 2)


def split_gates(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return values and gates (M, F) of interleaved columns (M, 2 F)."""
    values, gates = columns.unflatten(1, (-1, 2, GATE_GROUP)).transpose(1, 2).flatten(2).unbind(1)
    return values, gates


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W^T (M, N) in float32 (float64 stays)."""
    product = F.linear(x, weight)
    return product if product.dtype.itemsize == 8 else product.float()


def _normed(product: Tensor, rstd: Tensor, shift: Tensor | None) -> Tensor:
    """Correct a product (M, N) for the LayerNorm."""
    corrected = rstd[:, None] * product
    return corrected if shift is None else corrected + shift


class GatedArgs(NamedTuple):
    """The arguments of `gated_linear`.

    Args:
        x (Tensor): shape (M, C).
        rstd (Tensor): shape (M,), float32; 1 / standard deviation of each row of x (`inverse_deviation`).
        weight (Tensor): shape (2 F, C), folded, in the order of `interleave_gates`.
        shift (Tensor): shape (2 F,), float32, from `fold`, in the same order.
    """

    x: Tensor
    rstd: Tensor
    weight: Tensor
    shift: Tensor


def gated_linear(args: GatedArgs) -> Tensor:
    """Return value gelu(gate), both of them products of LayerNorm(x).

    Returns:
        Tensor: shape (M, F), dtype of x. The GELU is the exact one.
    """
    value, gate = split_gates(_normed(_product(args.x, args.weight), args.rstd, args.shift))
    return (value * F.gelu(gate)).to(args.x.dtype)


class AttentionInputsArgs(NamedTuple):
    """The arguments of `attention_inputs`.

    Args:
        x (Tensor): shape (M, C), positions in raster order within each frame.
        rstd (Tensor): shape (M,), float32; 1 / standard deviation of each row of x; None where `normed` is 0.
        weight (Tensor): shape (3 H D, C); rows of queries, keys, values; the first `normed` rows folded.
        normed (int): output columns of LayerNorm(x); the others are of x.
        cos, sin (Tensor): shape (P, D / 2), float32, of the P positions of a frame; row m is at m % P; or None.
        q_scale, k_scale (Tensor): shape (D,); if given, queries and keys are rotated, l2-normalised and scaled.
        heads (int): H.
        shift (Tensor): shape (3 H D,), float32, from `fold`; the first `normed` are read; None for zeros.
    """

    x: Tensor
    rstd: Tensor | None
    weight: Tensor
    normed: int
    cos: Tensor | None
    sin: Tensor | None
    q_scale: Tensor | None
    k_scale: Tensor | None
    heads: int
    shift: Tensor | None = None


def attention_inputs(args: AttentionInputsArgs) -> Tensor:
    """Return queries, keys and values of every head from one product.

    Returns:
        Tensor: shape (M, 3, H, D), dtype of x.

    Raises:
        ValueError: `normed` without `rstd`.
    """
    x, rstd, weight, normed, cos, sin, q_scale, k_scale, heads, shift = args
    if rstd is None and normed:
        raise ValueError(f"normed={normed} needs rstd; pass inverse_deviation(x).")
    product = _product(x, weight)
    if rstd is not None:
        corrected = _normed(product[:, :normed], rstd, None if shift is None else shift[:normed])
        product = torch.cat((corrected, product[:, normed:]), dim=1)
    out = product.unflatten(1, (3, heads, -1))
    if q_scale is None or k_scale is None:
        return out.to(x.dtype)
    rope = None
    if cos is not None and sin is not None:
        repeats = -(-x.shape[0] // cos.shape[0])
        rope = RopeTable(*(table.repeat(repeats, 1)[: x.shape[0]] for table in (cos, sin)))
    q, k, v = out.unbind(1)
    return torch.stack((cosine(q, q_scale, rope), cosine(k, k_scale, rope), v), dim=1).to(x.dtype)


class ResidualArgs(NamedTuple):
    """The arguments of `residual_linear`.

    Args:
        a (Tensor): shape (M, K).
        weight (Tensor): shape (N, K).
        bias (Tensor): shape (N,), or None.
        residual (Tensor): shape (M, N).
    """

    a: Tensor
    weight: Tensor
    bias: Tensor | None
    residual: Tensor


def residual_linear(args: ResidualArgs) -> Tensor:
    """Return residual + a W^T + bias in a new tensor.

    Returns:
        Tensor: shape (M, N), dtype of a.
    """
    return args.residual + F.linear(args.a, args.weight, args.bias)
