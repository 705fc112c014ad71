"""Decode: tokens or latents become a picture or a clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.types import DEFAULT_FPS
from service.errors import ProblemError
from service.formats.result import EncodeResult
from service.operations.bundles import find_decoder
from service.operations.clip import PixelResult, check_size
from service.operations.options import DecodeOptions
from service.settings import Limits
from service.types import Backend, ModelCard, Size


@dataclass(frozen=True)
class DecodePlan:
    """The bundle that decodes, its input, and the pixels that come out.

    Args:
        card: the bundle that made the codes.
        codes: int32 tokens (t, h, w) or float32 latents (t, h, w, c).
        size: frames, height and width to crop to.
        fps: rate of the clip, frames per second.
    """

    card: ModelCard
    codes: NDArray[Any]
    size: Size
    fps: float


def plan_decode(cards: Sequence[ModelCard], result: EncodeResult, options: DecodeOptions) -> DecodePlan:
    """Choose the bundle, check its input and find the size of its output.

    Args:
        cards: the bundles that are served, the default one first.
        result: tokens or latents, of anyone.
        options: as the caller gave them.

    Raises:
        ProblemError: the codes belong to another bundle, do not fit it, or cannot become a clip of that size.
    """
    card = find_decoder(cards, options, result.meta)
    size = _size(card, result, options)
    return DecodePlan(card, checked_codes(card, result), size, options.fps or result.meta.fps or DEFAULT_FPS)


async def decode(
    backend: Backend,
    result: EncodeResult,
    options: DecodeOptions,
    limits: Limits,
    accept: Callable[[DecodePlan], None] = lambda plan: None,
) -> PixelResult:
    """Decode tokens or latents.

    Args:
        backend: the tokenizer tier.
        result: tokens or latents, of anyone.
        options: as the caller gave them.
        limits: of one request.
        accept: called with the plan before anything is computed; it may raise.

    Raises:
        ProblemError: what `plan_decode`, `check_size` and the backend raise.
    """
    plan = plan_decode(await backend.models(), result, options)
    check_size(plan.card, plan.size, limits)
    accept(plan)
    decoded = await backend.decode(plan.card.id, plan.codes, plan.size)
    return PixelResult(plan.card, decoded.pixels, plan.fps, decoded.timing)


def _size(card: ModelCard, result: EncodeResult, options: DecodeOptions) -> Size:
    base = result.meta.size.as_tuple() if result.meta.size else card.geometry.size(result.grid)
    size = (options.frames or base[0], options.height or base[1], options.width or base[2])
    if (expected := card.geometry.grid(size)) != result.grid:
        shape, has, given = ("x".join(map(str, extents)) for extents in (size, expected, result.grid))
        detail = f"A clip of {shape} (frames, height, width) has the grid {has}, not {given}."
        raise ProblemError("bad-grid", detail)
    return size


def checked_codes(card: ModelCard, result: EncodeResult) -> NDArray[Any]:
    """Return int32 tokens (t, h, w) or float32 latents (t, h, w, c) that the bundle can decode.

    Raises:
        ProblemError: `token-out-of-range`, `invalid-tensor`.
    """
    if card.codebook_size is not None and result.tokens is not None:
        low, high = int(result.tokens.min()), int(result.tokens.max())
        if low < 0 or high >= card.codebook_size:
            detail = f"Tokens of {card.id} must be in [0, {card.codebook_size}); these go from {low} to {high}."
            raise ProblemError("token-out-of-range", detail, card.codebook_size - 1, low if low < 0 else high)
        return result.tokens.astype(np.int32)
    if result.latents is None:
        raise ProblemError("invalid-tensor", f"The model {card.id} decodes latents, and only tokens came.")
    check_channels(card, result.latents.shape[-1])
    if not np.isfinite(result.latents).all():
        raise ProblemError("invalid-tensor", "Latents must be finite: neither NaN nor infinite.")
    return result.latents.astype(np.float32)


def check_channels(card: ModelCard, channels: int) -> None:
    """Refuse latents of other channels than a bundle's.

    Raises:
        ProblemError: `invalid-tensor`.
    """
    if channels != card.latent_channels:
        detail = f"Latents of {card.id} have {card.latent_channels} channels; these have {channels}."
        raise ProblemError("invalid-tensor", detail, card.latent_channels, channels)
