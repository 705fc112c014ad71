"""Roofline of encoding and decoding on a GPU: the sum of every operator's limit.

An operator is one kernel that touches every operand once. Its limit is the slower of its arithmetic, at the rate of a
large matrix product, and its memory traffic, at the rate of a copy. Weights are read once a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.measure import Ceilings
from model.tokenizer.config import TokenizerConfig, VQConfig

Shape = tuple[int, int, int]

SHAPES: tuple[Shape, ...] = (
    (1, 1, 256), (16, 1, 256), (64, 1, 256), (64, 1, 128), (1, 17, 256), (8, 17, 128), (8, 17, 256),
)  # fmt: skip
"""The timed shapes: batch, frames, side in pixels."""


def shape_name(shape: Shape) -> str:
    """Return a shape's name in tables and on the command line, such as 16x1x256."""
    return "x".join(map(str, shape))


@dataclass(frozen=True)
class Roofline:
    """The microseconds of one call at the ceilings."""

    encode: float
    decode: float


class Work(NamedTuple):
    """The FLOPs of one kernel, and the bytes that it reads and writes."""

    flops: float
    moved: float


def roofline(config: TokenizerConfig, shape: Shape, ceilings: Ceilings) -> Roofline:
    """Return the roofline of uint8 pixels to codes, and of codes to uint8 pixels, for networks in bfloat16.

    Args:
        config: the geometry.
        shape: batch, frames, side in pixels.
        ceilings: of the GPU.
    """
    batch, frames, side = shape
    counts = _Counts(config, batch, *config.geometry.grid((frames, side, side)))
    return Roofline(_microseconds(counts.encode(), ceilings), _microseconds(counts.decode(), ceilings))


def _microseconds(kernels: Iterator[Work], ceilings: Ceilings) -> float:
    return 1e6 * sum(max(work.flops / ceilings.product, work.moved / ceilings.copy) for work in kernels)


def _kernel(rows: int, flops: float, values: int, weights: int = 0, others: int = 0) -> Work:
    """Return the work of a kernel.

    Args:
        rows: tokens.
        flops: per row.
        values: bfloat16 values read and written per row.
        weights: bfloat16 values read once.
        others: other bytes read and written per row: pixels, tokens, latents.
    """
    return Work(rows * flops, 2 * (rows * values + weights) + rows * others)


@dataclass(frozen=True)
class _Counts:
    """The kernels of a network on a batch of latent grids."""

    config: TokenizerConfig
    batch: int
    frames: int
    height: int
    width: int

    @property
    def rows(self) -> int:
        """Return the tokens of the batch."""
        return self.batch * self.frames * self.height * self.width

    @property
    def inner(self) -> int:
        """Return the channels of the queries of all heads."""
        return self.config.heads * self.config.head_dim

    def encode(self) -> Iterator[Work]:
        """Yield the kernels from pixels to codes."""
        yield from self._pixels()
        yield from self._spatial(self.config.encoder_blocks)
        yield from self._temporal()
        yield self._to_codes()

    def decode(self) -> Iterator[Work]:
        """Yield the kernels from codes to pixels."""
        yield self._from_codes()
        yield from self._temporal()
        yield from self._spatial(self.config.decoder_blocks)
        yield from self._pixels()

    def _pixels(self) -> Iterator[Work]:
        """Yield patches to tokens, or tokens to patches at equal cost; first frames have their own weights."""
        width = self.config.width
        for latents, frames in ((1, 1), (self.frames - 1, self.config.temporal_patch)):
            if latents:
                rows = self.batch * latents * self.height * self.width
                patch = 3 * frames * self.config.patch**2
                yield _kernel(rows, 2 * patch * width, width, patch * width, others=patch)

    def _to_codes(self) -> Work:
        width, head = self.config.width, self.config.head
        if isinstance(head, VQConfig):  # projection and search in one kernel; the codebook is float32, tokens int64
            weights = width * head.dim + 2 * head.codes * head.dim
            return _kernel(self.rows, 2 * (width + head.codes) * head.dim, width, weights, others=8)
        return _kernel(self.rows, 4 * width * head.dim, width, 2 * width * head.dim, others=8 * head.dim)

    def _from_codes(self) -> Work:
        width, head = self.config.width, self.config.head
        if isinstance(head, VQConfig):  # rows of a table of expanded codes
            return _kernel(self.rows, 0, width, min(self.rows, head.codes) * width, others=8)
        return _kernel(self.rows, 2 * width * head.dim, width, width * head.dim, others=4 * head.dim)

    def _spatial(self, blocks: str) -> Iterator[Work]:
        config, size = self.config, self.height * self.width
        for letter in blocks:
            if letter == "t":
                learned = config.additive_bias and config.spatial_position == "rel"
                distances = (2 * self.height - 1) * (2 * self.width - 1) if learned else 0
                yield self._positions()
                yield from self._attention(size, distances * config.heads)
            else:
                keys = _mean_keys(self.height, config.window) * _mean_keys(self.width, config.window)
                yield from self._attention(keys, (2 * config.window - 1) ** 2 * config.heads)
            yield from self._feed_forward()
        yield self._norm()

    def _temporal(self) -> Iterator[Work]:
        width = self.config.width
        for _ in range(self.config.temporal_layers):
            yield self._positions()
            if self.frames == 1:  # a softmax over one key is 1: x + x (W_v W_o), the two matrices merged
                yield _kernel(self.rows, 2 * width**2, 2 * width, width**2)
            else:
                yield from self._attention(self._frames_seen(), 0)
            yield from self._feed_forward()
        yield self._norm()

    def _frames_seen(self) -> float:
        """Return the mean number of keys of a temporal query."""
        if not self.config.causal_attention:
            return self.frames
        limit = self.config.temporal_window or self.frames
        return sum(min(frame + 1, limit) for frame in range(self.frames)) / self.frames

    def _positions(self) -> Work:
        """Return the depthwise convolution with its residual; a single frame uses 9 of the 27 taps."""
        taps, width = 9 if self.frames == 1 else 27, self.config.width
        return _kernel(self.rows, 2 * taps * width, 2 * width, 28 * width)

    def _attention(self, keys: float, bias: int) -> Iterator[Work]:
        """Yield LayerNorm with the products to queries, keys and values; attention; the output product."""
        width, inner = self.config.width, self.inner
        yield _kernel(self.rows, 6 * width * inner, width + 3 * inner, 3 * width * inner)
        yield _kernel(self.rows, 4 * keys * inner, 4 * inner, bias)
        yield _kernel(self.rows, 2 * width * inner, inner + 2 * width, width * inner)

    def _feed_forward(self) -> Iterator[Work]:
        """Yield LayerNorm with the gated product, and the output product with its residual."""
        width, hidden = self.config.width, self.config.feed_forward
        yield _kernel(self.rows, 4 * width * hidden, width + hidden, 2 * width * hidden)
        yield _kernel(self.rows, 2 * width * hidden, hidden + 2 * width, width * hidden)

    def _norm(self) -> Work:
        return _kernel(self.rows, 0, 2 * self.config.width)  # memory-bound


def _mean_keys(side: int, window: int) -> float:
    """Return the mean number of positions in a position's window along one axis; the last may be smaller."""
    whole, rest = divmod(side, window)
    return (whole * window**2 + rest**2) / side
