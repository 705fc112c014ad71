"""Encode: a picture or a clip becomes tokens, latents or both."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.errors import MediaError
from service.errors import ProblemError
from service.formats.result import ClipSize, EncodeMeta, EncodeResult, TimingMeta
from service.operations.bundles import find_card
from service.operations.clip import Clip, ClipInfo, ClipSource, check_size
from service.operations.concurrency import gather_or_cancel, result_or_refusal
from service.operations.options import EncodeOptions
from service.settings import Limits
from service.types import Backend, Encoded, Media, ModelCard, Size, Timing, Want


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
        card, meta = self.card, self.meta(clip, request_id, timing)
        if tokens is not None and card.codebook_size is not None and card.codebook_size <= 2**16:
            tokens = tokens.astype(np.uint16)
        return EncodeResult(meta, tokens, latents)

    def meta(self, clip: ClipInfo, request_id: str | None = None, timing: TimingMeta | None = None) -> EncodeMeta:
        """Return the description of the outputs; the arguments are those of `result`."""
        card = self.card
        frames, height, width = clip.size
        return EncodeMeta(
            id=request_id,
            model=card.id,
            bundle=card.hash,
            kind=card.kind,
            grid=list(card.geometry.grid(clip.size)),
            codebook_size=card.codebook_size,
            size=ClipSize(frames=frames, height=height, width=width),
            fps=clip.fps,
            source=clip.source,
            preprocess=clip.preprocess,
            timing=timing,
        )


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
    if card.kind == "vae" and want != "latents":
        errors = [{"pointer": "/output", "detail": "A VAE bundle has latents only."}]
        raise ProblemError(
            "invalid-options", f"The VAE bundle {card.id} has no tokens. Ask for latents.", errors=errors
        )
    return EncodePlan(card, want)


@dataclass(frozen=True)
class Encoding:
    """The outcome of encode: tokens or latents with their description, the bundle that made them, and its timing."""

    card: ModelCard
    result: EncodeResult
    decode_ms: float
    timing: Timing


async def encode(
    backend: Backend,
    media: Media,
    source: ClipSource,
    options: EncodeOptions,
    limits: Limits,
    accept: Callable[[EncodePlan, int | None], None] = lambda plan, positions: None,
    request_id: str | None = None,
    started: float | None = None,
) -> Encoding:
    """Encode a picture or a clip.

    Args:
        backend: the tokenizer tier.
        media: the pool of decoders.
        source: the picture or the clip.
        options: as the caller gave them.
        limits: of one request.
        accept: called with the plan before media are read, and again with the number of latent positions before they
            are computed; it may raise, so that nobody works for an answer that its caller cannot take.
        request_id: of the request, if there is one.
        started: when the request began, on `time.perf_counter`; None for now.

    Raises:
        ProblemError: for anything wrong with the media or the options, and what the backend raises.
    """
    started = time.perf_counter() if started is None else started
    plan = plan_encode(await backend.models(), options)
    accept(plan, None)
    clip = await source.read(media, options)
    accept(plan, check_size(plan.card, clip.info.size, limits))
    encoded = await backend.encode(plan.card.id, clip.pixels, plan.want)
    return _encoding(plan, clip, encoded, request_id, started)


async def encode_many(
    backend: Backend,
    media: Media,
    sources: Sequence[ClipSource],
    options: EncodeOptions,
    limits: Limits,
    accept: Callable[[EncodePlan, int | None], None],
    request_id: str | None,
    started: float,
) -> list[Encoding | ProblemError | MediaError]:
    """Encode pictures and clips, those of one size together; return the outcome of each.

    Args:
        sources: the pictures and clips.
        backend, media, options, limits, request_id, started: as for `encode`.
        accept: as for `encode`; its positions are those of one source.
    """
    try:
        plan = plan_encode(await backend.models(), options)
        accept(plan, None)
    except ProblemError as problem:
        return [problem] * len(sources)
    outcomes: list[Encoding | ProblemError | MediaError | None] = [None] * len(sources)
    clips = await _read_each(media, sources, options)
    sizes: defaultdict[Size, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        try:
            if not isinstance(clip, Clip):
                raise clip
            accept(plan, check_size(plan.card, clip.info.size, limits))
            sizes[clip.info.size].append(index)
        except (ProblemError, MediaError) as error:
            outcomes[index] = error

    async def run(indices: Sequence[int]) -> None:
        group = [clip for clip in map(clips.__getitem__, indices) if isinstance(clip, Clip)]
        answers: Sequence[Encoded | ProblemError]
        try:
            answers = await backend.encode_many(plan.card.id, [clip.pixels for clip in group], plan.want)
        except ProblemError as problem:
            answers = [problem] * len(group)
        for index, clip, answer in zip(indices, group, answers, strict=True):
            if isinstance(answer, Encoded):
                outcomes[index] = _encoding(plan, clip, answer, request_id, started)
            else:
                outcomes[index] = answer

    await gather_or_cancel(map(run, sizes.values()))
    return [outcome for outcome in outcomes if outcome is not None]


async def _read_each(
    media: Media, sources: Sequence[ClipSource], options: EncodeOptions
) -> list[Clip | ProblemError | MediaError]:
    if all(source.media is None for source in sources):  # nothing waits, so no task is worth its time
        return [await result_or_refusal(source.read(media, options)) for source in sources]
    return await gather_or_cancel(result_or_refusal(source.read(media, options)) for source in sources)


def _encoding(plan: EncodePlan, clip: Clip, encoded: Encoded, request_id: str | None, started: float) -> Encoding:
    timing = TimingMeta(
        decode_ms=clip.decode_ms,
        queue_ms=encoded.timing.queue_ms,
        compute_ms=encoded.timing.compute_ms,
        total_ms=1000 * (time.perf_counter() - started),
    )
    result = plan.result(encoded.tokens, encoded.latents, clip.info, request_id, timing)
    return Encoding(plan.card, result, clip.decode_ms, encoded.timing)
