"""Encode: a picture or a clip becomes tokens, latents or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ProblemError
from service.formats.result import ClipSize, EncodeMeta, EncodeResult, PreprocessMeta, SourceMeta, TimingMeta
from service.operations.bundles import find_card
from service.operations.clip import ClipInfo
from service.operations.options import EncodeOptions
from service.types import ModelCard, Want


@dataclass(frozen=True)
class EncodePlan:
    """The bundle that encodes a clip, and the outputs to compute."""

    card: ModelCard
    want: Want

    def result(
        self,
        tokens: NDArray[Any] | None,
        latents: NDArray[np.float32] | None,
        clip: ClipInfo,
        request_id: str | None = None,
        timing: TimingMeta | None = None,
    ) -> EncodeResult:
        """Return the outputs with their description.

        Args:
            tokens: integers (t, h, w), or None.
            latents: (t, h, w, c), or None.
            clip: what was encoded.
            request_id, timing: of the request, if there was one.
        """
        card = self.card
        frames, height, width = clip.size
        meta = EncodeMeta(
            id=request_id,
            model=card.id,
            bundle=card.hash,
            kind=card.kind,
            grid=list(card.geometry.grid(clip.size)),
            codebook_size=card.codebook_size,
            size=ClipSize(frames=frames, height=height, width=width),
            fps=clip.fps,
            source=None if clip.source is None else SourceMeta.of(clip.source),
            preprocess=None if clip.preprocess is None else PreprocessMeta.of(clip.preprocess),
            timing=timing,
        )
        if tokens is not None and card.codebook_size is not None and card.codebook_size <= 2**16:
            tokens = tokens.astype(np.uint16)
        return EncodeResult(meta, tokens, latents)


def plan_encode(cards: Sequence[ModelCard], options: EncodeOptions) -> EncodePlan:
    """Choose the bundle and the outputs.

    Args:
        cards: the bundles that are served, the default one first.
        options: as the caller gave them.

    Raises:
        ProblemError: `unknown-model`, or `invalid-options` when the bundle has no tokens.
    """
    card = find_card(cards, options.model)
    want = options.output or ("tokens" if card.kind == "vq" else "latents")
    check_output(card, want)
    return EncodePlan(card, want)


def check_output(card: ModelCard, want: Want) -> None:
    """Refuse tokens of a VAE bundle.

    Raises:
        ProblemError: `invalid-options`.
    """
    if card.kind == "vae" and want != "latents":
        errors = [{"pointer": "/output", "detail": "a VAE bundle has latents only"}]
        raise ProblemError("invalid-options", f"{card.id} is a VAE bundle: it has no tokens", errors=errors)
