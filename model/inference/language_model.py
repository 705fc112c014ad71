"""A language model packed for decoding: norms folded into the products after them, optionally rounded to int8."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import fold
from kernels.decode_attention import decode_attention
from kernels.decode_attention.reference import indexable, to_cache_dtype
from kernels.thin_linear import moments_for, quantize_rows, thin_linear
from kernels.thin_linear.reference import MIN_COUNTERS
from model.generator.kv_cache import KVCache
from model.generator.lm import Block, LanguageModel


class Product(NamedTuple):
    """A matrix product of a layer.

    Args:
        weight (Tensor): shape (N, K); a LayerNorm before it is folded in where `normed`.
        bias (Tensor): shape (N,), or None.
        scale (Tensor): shape (N,), of an int8 weight's rows, or None.
        normed (bool): the product takes the LayerNorm of its input.
    """

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    normed: bool

    @classmethod
    def of(
        cls, linear: nn.Linear, norm: nn.LayerNorm | None, device: torch.device, dtype: torch.dtype, int8: bool
    ) -> Product:
        """Pack a product and the LayerNorm before it.

        Args:
            linear: the product, float32.
            norm: of its input, to be folded in; None if there is none.
            device, dtype: of the packed weight.
            int8: round the weight to int8, one scale a row.
        """
        weight = linear.weight.detach().to(device)
        bias = None if linear.bias is None else linear.bias.detach().to(device, torch.float32)
        if norm is not None:
            scale, shift = norm.weight.to(device), norm.bias.to(device)
            weight, bias = fold(scale, shift, weight, bias, torch.float32 if int8 else dtype)
        if int8:
            quantized, steps = quantize_rows(weight)
            return cls(quantized, bias, steps, norm is not None)
        return cls(weight.to(dtype).contiguous(), bias, None, norm is not None)


class Layer(NamedTuple):
    """The four products of a block, in order."""

    qkv: Product
    out: Product
    hidden: Product
    down: Product


class PackedLanguageModel:
    """The weights of a language model, and its two ways through a cache: a step of many rows, a chunk of one.

    Args:
        model: in float32 on any device; it is not changed.
        device, dtype: of the packed weights and the activations.
        int8: round the weights of the products to int8, one scale a row.
    """

    def __init__(self, model: LanguageModel, device: torch.device, dtype: torch.dtype, int8: bool = False) -> None:
        self.config = model.config
        self.device, self.dtype = device, dtype

        def pack(linear: nn.Linear, norm: nn.LayerNorm | None = None) -> Product:
            return Product.of(linear, norm, device, dtype, int8)

        self.tokens = model.tokens.weight.detach().to(device, dtype)
        self.positions = model.positions.weight.detach().to(device, dtype)
        self.layers: list[Layer] = []
        for block in model.blocks:
            assert isinstance(block, Block)
            attention, mlp = block.attention, block.mlp
            self.layers.append(
                Layer(
                    pack(attention.qkv, attention.norm),
                    pack(attention.to_out),
                    pack(mlp.to_hidden, mlp.norm),
                    pack(mlp.to_out),
                )
            )
        self.head = pack(model.head, model.norm_out)
        self.counters = torch.zeros(MIN_COUNTERS, dtype=torch.int32, device=device)  # for one call at a time

    @property
    def step_bytes(self) -> int:
        """Return the bytes of weights that one step reads."""
        products = [self.head, *(product for layer in self.layers for product in layer)]
        return sum(product.weight.nbytes for product in products)

    def make_cache(self, slots: int, dtype: torch.dtype | None = None) -> KVCache:
        """Return a cache of so many sequences, of the activations' dtype by default."""
        config = self.config
        sizes = config.layers, slots, config.heads, config.positions, config.head_dim
        return KVCache(*sizes, dtype=dtype or self.dtype, device=self.device)

    def step(self, x: Tensor, cache: KVCache, slots: Tensor, lengths: Tensor) -> Tensor:
        """Append one token to each row's sequence.

        Args:
            x: (R, width) embeddings of the tokens.
            cache: written in place.
            slots, lengths: (R,) int32; a row of length 0 writes nothing, and its logits mean nothing.

        Returns:
            (R, vocabulary) float32 logits of the token after.
        """
        moments = moments_for(x)
        known: Tensor | None = None  # those of the embeddings are not
        for index, layer in enumerate(self.layers):
            qkv = self._multiply(x, layer.qkv, moments=known).view(len(x), 3, self.config.heads, self.config.head_dim)
            attended = decode_attention(qkv, cache.layer(index), slots, lengths, self.counters)
            x = self._multiply(attended.flatten(1), layer.out, residual=x, moments=moments)
            hidden = self._multiply(x, layer.hidden, gelu=True, moments=moments)
            x = self._multiply(hidden, layer.down, residual=x, moments=moments)
            known = moments
        return self._multiply(x, self.head, full_precision=True, moments=known)

    def append(self, ids: Tensor, positions: Tensor, cache: KVCache, slot: Tensor, places: Tensor, bound: int) -> None:
        """Store the keys and values of consecutive tokens of one sequence; their logits are not computed.

        Args:
            ids, positions: (C,) vocabulary ids and indices of learned positions.
            cache: written in place.
            slot: (1,) int64, the sequence's.
            places: (C,) int64, indices of the tokens in their sequence.
            bound: no place reaches it.
        """
        x = F.embedding(ids, self.tokens) + F.embedding(positions, self.positions)
        seen = torch.arange(bound, device=x.device) <= places[:, None]
        for index, layer in enumerate(self.layers):
            qkv = self._multiply(x, layer.qkv).unflatten(1, (3, self.config.heads, self.config.head_dim))
            stored = indexable(cache.layer(index))
            stored[:, slot, :, places] = indexable(to_cache_dtype(qkv[:, 1:], cache.data.dtype))
            if index == len(self.layers) - 1:
                return
            keys, values = stored[:, slot, :, :bound].view(cache.data.dtype).to(x.dtype)
            attended = F.scaled_dot_product_attention(qkv[None, :, 0].transpose(1, 2), keys, values, seen)
            x = self._multiply(attended[0].transpose(0, 1).flatten(1), layer.out, residual=x)
            hidden = self._multiply(x, layer.hidden, gelu=True)
            x = self._multiply(hidden, layer.down, residual=x)

    def _multiply(
        self,
        x: Tensor,
        product: Product,
        residual: Tensor | None = None,
        gelu: bool = False,
        full_precision: bool = False,
        moments: Tensor | None = None,
    ) -> Tensor:
        return thin_linear(
            x,
            product.weight,
            product.bias,
            residual,
            product.scale,
            normed=product.normed,
            gelu=gelu,
            full_precision=full_precision,
            counters=self.counters,
            moments=moments,
        )
