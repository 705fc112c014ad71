"""The definition of a whole decode step over packed weights, on any device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.decode_attention.reference import DecodeArgs, decode_attention
from kernels.thin_linear.reference import ThinArgs, thin_linear

QUARTERS = 4  # width of the hidden layer over that of the model
LAYER_PIECES = 3 + 1 + QUARTERS + QUARTERS  # of a layer, times the width
HEAD_MULTIPLE = 16  # of the head's pieces, which the chunks of every tile divide
FLAGS = 32  # index of the first program's flag in a state, on another cache line than the error
MAX_PROGRAMS = 256


class StepArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        x (Tensor): shape (R, C), embeddings of each row's newest token.
        weights (Tensor): shape (pieces, C), from `pack`.
        biases (Tensor): shape (pieces,), float32, from `pack`.
        cache (Tensor): shape (layers, 2, slots, H, S, D), dtype of x; the new keys and values are written at position
            length - 1.
        slots (Tensor): shape (R,), int32, each row's slot; rows of positive length have different slots.
        lengths (Tensor): shape (R,), int32, at most S; positions of a row with the new one. A row of length 0 writes
            nothing, and its logits mean nothing.
        vocabulary (int): V.
        state (Tensor): from `make_state`, changed; steps that may run at the same time need states of their own. Its
            first element is not zero after a step whose programs lost one another: its results are wrong.
    """

    x: Tensor
    weights: Tensor
    biases: Tensor
    cache: Tensor
    slots: Tensor
    lengths: Tensor
    vocabulary: int
    state: Tensor


class StepProduct(NamedTuple):
    """A product to pack: weight (N, K), a LayerNorm before it folded in, and bias (N,) or None."""

    weight: Tensor
    bias: Tensor | None


def pack(products: Iterable[StepProduct], width: int) -> tuple[Tensor, Tensor]:
    """Lay the products of a step one after another: four of each layer, then the head.

    A piece is `width` elements of a row. A row of the product after the GELU is four pieces, and the first has its
    bias. Zeros fill the head up.

    Returns:
        Tensor: shape (pieces, width).
        Tensor: float32, shape (pieces,).
    """
    weights, biases = [], []
    for weight, bias in products:
        weights.append(weight.reshape(-1, width))
        spread = torch.zeros(len(weight), weight.shape[1] // width, dtype=torch.float32, device=weight.device)
        if bias is not None:
            spread[:, 0] = bias
        biases.append(spread.flatten())
    missing = -len(weights[-1]) % HEAD_MULTIPLE
    weights.append(weights[-1].new_zeros(missing, width))
    biases.append(biases[-1].new_zeros(missing))
    return torch.cat(weights), torch.cat(biases)


def make_state(device: torch.device | str) -> Tensor:
    """Return the state of steps that run one after another."""
    return torch.zeros(FLAGS + MAX_PROGRAMS, dtype=torch.int32, device=device)


def decode_step(args: StepArgs) -> Tensor:
    """Append each row's keys and values, and return the logits of the token after.

    A layer adds attention over LayerNorm(x) to x, then an MLP with the exact GELU over LayerNorm of that; the head
    follows a LayerNorm too.

    Returns:
        Tensor: shape (R, V), float32 (float64 of float64 inputs).
    """
    x, weights, biases, cache, slots, lengths, vocabulary, _ = args
    layers, _, _, heads, _, dim = cache.shape
    width = x.shape[1]
    start = 0

    def multiply(x: Tensor, columns: int, residual: Tensor | None = None, **options: Any) -> Tensor:
        nonlocal start
        pieces = x.shape[1] // width
        end = start + columns * pieces
        weight, bias = weights[start:end].view(columns, x.shape[1]), biases[start:end:pieces]
        start = end
        return thin_linear(ThinArgs(x, weight, bias, residual, **options))

    for index in range(layers):
        qkv = multiply(x, 3 * width, normed=True).view(len(x), 3, heads, dim)
        attended = decode_attention(DecodeArgs(qkv, cache[index], slots, lengths))
        x = multiply(attended.flatten(1), width, x)
        hidden = multiply(x, QUARTERS * width, normed=True, gelu=True)
        x = multiply(hidden, width, x)
    return multiply(x, vocabulary, normed=True, full_precision=True)
