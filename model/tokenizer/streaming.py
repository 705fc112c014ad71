"""Clips encoded and decoded in chunks, and the state between them: passed in and out, kept nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.tokenizer.layers import BlockState

if TYPE_CHECKING:
    from model.tokenizer.tokenizer import OmniTokenizer


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
            raise StreamError("The clip has ended: its final chunk was encoded, and padding may follow its last frame.")
        old, new = self.pending, pixels
        if old.shape[:1] + old.shape[2:] != new.shape[:1] + new.shape[2:] or old.dtype != new.dtype:
            raise StreamError(
                f"A chunk of {tuple(new.shape)} {new.dtype} does not continue a clip of {tuple(old.shape)} {old.dtype}."
            )
        return torch.cat((old, new), dim=1)


def check_depth(blocks: Sequence[BlockState], expected: int) -> None:
    """Refuse the state of a model with another number of blocks.

    Raises:
        StreamError: with both numbers.
    """
    if len(blocks) != expected:
        raise StreamError(f"A state of {len(blocks)} blocks belongs to another model: this one has {expected}.")


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
            raise StreamError(f"A chunk of (batch, rows, columns) {shape} does not continue a clip of {self.shape}.")


def stream_encode(tokenizer: OmniTokenizer, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Encode a clip as its frames come; one that takes whole clips waits for all of them.

    Args:
        tokenizer: any; gradients are not recorded.
        chunks: pixels (B, n, H, W, 3), any n of at least 1, as for `OmniTokenizer.encode`.

    Returns:
        Codes (B, t, h, w[, d]) as they become complete, t at least 1; together they are those of the whole clip.
    """
    if not tokenizer.config.streams:
        yield _join(tokenizer.encode, chunks)
        return
    state = None
    for chunk, last in _mark_last(chunks):
        with torch.inference_mode():  # entered anew, so that a suspended generator leaves its caller's mode alone
            codes, state = tokenizer.encode_chunk(chunk, state, final=last)
        if codes.shape[1]:
            yield codes


def stream_decode(tokenizer: OmniTokenizer, parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """Decode a clip as its codes come; one that takes whole clips waits for all of them.

    Args:
        tokenizer: any; gradients are not recorded.
        parts: codes (B, t, h, w[, d]), any t of at least 1, as for `OmniTokenizer.decode`.

    Returns:
        uint8 pixels (B, n, H, W, 3) with the padding still on.
    """
    if not tokenizer.config.streams:
        yield _join(tokenizer.decode, parts)
        return
    state = None
    for part in parts:
        with torch.inference_mode():
            pixels, state = tokenizer.decode_chunk(part, state)
        yield pixels


def _join(run: Callable[[Tensor], Tensor], parts: Iterable[Tensor]) -> Tensor:
    whole = torch.cat(list(parts), dim=1)
    with torch.inference_mode():
        return run(whole)


def _mark_last(chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Pass chunks on, each with whether it is the last one."""
    chunks = iter(chunks)
    for current in chunks:
        for following in chunks:
            yield current, False
            current = following
        yield current, True
