"""The language model of section 3.2: a pre-norm GPT, teacher-forced or decoded with a static cache."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.decode_attention.reference import indexable, to_cache_dtype
from model.generator.config import LanguageModelConfig
from model.generator.kv_cache import KVCache


class Attention(nn.Module):
    """Self-attention over a normalised input, with biases; rows of `qkv` are ordered (3, head, channel)."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.to_out = nn.Linear(config.width, config.width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of (B, L, width) tokens: (B, heads, L, head_dim) each."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def merge(self, heads: Tensor) -> Tensor:
        """Return the output product of (B, heads, L, head_dim) attended values: (B, L, width)."""
        out: Tensor = self.to_out(heads.transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Attend causally over a whole sequence."""
        q, k, v = self.project(x)
        return self.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def cached(self, x: Tensor, layer: Tensor, slots: Tensor, places: Tensor, bound: int) -> Tensor:
        """Store the keys and values of new tokens, and attend to all tokens so far.

        Args:
            x: (R, L, width), the new tokens.
            layer: (2, slots, heads, positions, head_dim), written in place.
            slots: (R,) int64, the slot of each row.
            places: (R, L) int64, indices of the new tokens within their sequences.
            bound: no place reaches it.
        """
        q, k, v = self.project(x)
        rows = slots[:, None]
        for half, new in zip(indexable(layer), (k, v), strict=True):
            half[rows, :, places] = indexable(to_cache_dtype(new.transpose(1, 2), layer.dtype))
        keys, values = indexable(layer)[:, slots, :, :bound].view(layer.dtype).to(q.dtype)
        seen = torch.arange(bound, device=x.device) <= places[:, None, :, None]
        return self.merge(F.scaled_dot_product_attention(q, keys, values, seen))


class MLP(nn.Module):
    """Two products around an exact gelu, four times the width in between."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.to_hidden = nn.Linear(config.width, 4 * config.width)
        self.to_out = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of (..., width) tokens."""
        out: Tensor = self.to_out(F.gelu(self.to_hidden(self.norm(x))))
        return out


class Block(nn.Module):
    """One layer: attention, then MLP, each added to its input."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens of a whole sequence after this layer."""
        x = x + self.attention(x)
        out: Tensor = x + self.mlp(x)
        return out

    def cached(self, x: Tensor, layer: Tensor, slots: Tensor, places: Tensor, bound: int) -> Tensor:
        """Return new tokens after this layer, with arguments as of `Attention.cached`."""
        x = x + self.attention.cached(x, layer, slots, places, bound)
        out: Tensor = x + self.mlp(x)
        return out


class LanguageModel(nn.Module):
    """A causal transformer over the ids of a config's vocabulary. It keeps no state: caches go in.

    Args:
        config: sizes and vocabulary.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # products that end a residual branch start smaller, so that depth does not grow the sum
                scale = math.sqrt(2 * config.layers) if name.endswith("to_out.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the logits of the token after each of a sequence's.

        Args:
            ids: (B, L) int64 vocabulary ids.
            positions: (B, L) or (L,) int64 indices of learned positions; None for 0 to L - 1.

        Returns:
            (B, L, vocabulary) float32.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.positions(positions)
        for block in self.blocks:
            x = block(x)
        return self._logits(x)

    def prefill(self, ids: Tensor, positions: Tensor, cache: KVCache, slots: Tensor, lengths: Tensor) -> Tensor:
        """Append tokens to sequences in the cache.

        Args:
            ids: (R, L) int64 vocabulary ids, L new tokens a row.
            positions: (R, L) int64 indices of learned positions.
            cache: written in place.
            slots: (R,) int64, the slot of each row; no two rows share one.
            lengths: (R,) int64, tokens of each sequence with the new ones.

        Returns:
            (R, vocabulary) float32 logits of the token after the last one.
        """
        count = ids.shape[1]
        places = lengths[:, None] + torch.arange(-count, 0, device=ids.device)
        # the device alone knows the lengths, and reading them would stop a stream
        bound = cache.positions if ids.is_cuda else int(lengths.max())
        x = self.tokens(ids) + self.positions(positions)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x = block.cached(x, cache.layer(index), slots, places, bound)
        return self._logits(x[:, -1])

    def step(self, ids: Tensor, positions: Tensor, cache: KVCache, slots: Tensor, lengths: Tensor) -> Tensor:
        """Append one token to each sequence: `prefill` with ids and positions of shape (R,)."""
        return self.prefill(ids[:, None], positions[:, None], cache, slots, lengths)

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm_out(x))
        return logits.float()
