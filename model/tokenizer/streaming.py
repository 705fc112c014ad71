"""The state of a stream between chunks: passed in and out, kept nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.tokenizer.layers import BlockState


class StreamError(ValueError):
    """A chunk that cannot be encoded or decoded here."""


@dataclass(frozen=True)
class EncoderState:
    """State of `OmniTokenizer.encode_chunk`.

    Args:
        pending: pixels (B, r, H, W, 3) that fill no temporal patch yet.
        frames: frames encoded so far.
        blocks: what each block carries.
        finished: whether the last chunk was the final one.
    """

    pending: Tensor
    frames: int
    blocks: Sequence[BlockState]
    finished: bool = False

    def join(self, pixels: Tensor) -> Tensor:
        """The pending frames followed by new ones.

        Raises:
            StreamError: the clip has ended, or the new ones have another size, batch or type.
        """
        if self.finished:
            raise StreamError("the clip has ended: its final chunk was encoded, and padding may follow its last frame")
        old, new = self.pending, pixels
        if old.shape[:1] + old.shape[2:] != new.shape[:1] + new.shape[2:] or old.dtype != new.dtype:
            raise StreamError(
                f"a chunk of {tuple(new.shape)} {new.dtype} does not continue a clip of {tuple(old.shape)} {old.dtype}"
            )
        return torch.cat((old, new), dim=1)


def check_depth(blocks: Sequence[BlockState], expected: int) -> None:
    """Refuse the state of a model with another number of blocks.

    Raises:
        StreamError: with both numbers.
    """
    if len(blocks) != expected:
        raise StreamError(f"a state of {len(blocks)} blocks belongs to another model: this one has {expected}")


@dataclass(frozen=True)
class DecoderState:
    """State of `OmniTokenizer.decode_chunk`.

    Args:
        shape: batch, rows and columns of the clip's codes.
        frames: latent frames decoded so far.
        blocks: what each block carries.
    """

    shape: tuple[int, ...]
    frames: int
    blocks: Sequence[BlockState]

    def check(self, codes: Tensor) -> None:
        """Refuse codes of another clip.

        Raises:
            StreamError: another batch or grid.
        """
        shape = tuple(codes.shape[:1] + codes.shape[2:4])
        if shape != self.shape:
            raise StreamError(f"a chunk of (batch, rows, columns) {shape} does not continue a clip of {self.shape}")
