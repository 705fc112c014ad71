"""The three routes that do the work: from a request, through media pool and tokenizer tier, to an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from media.types import Preprocess, SourceInfo
from model.metrics.psnr import psnr
from service.api.body import Body, BodyRoom, read_body, while_connected
from service.api.negotiation import parse_accept, require
from service.api.parsing import MediaUpload, parse_codes, parse_media
from service.errors import ProblemError
from service.formats.codes import write_codes
from service.formats.media_types import JSON, MSGPACK, NPY, NPZ, SAFETENSORS
from service.formats.pixels import DEFAULT_FPS, pixel_offers
from service.formats.result import ClipSize, EncodeMeta, EncodeResult, PreprocessMeta, SourceMeta, TimingMeta
from service.operations.options import (
    DecodeOptions,
    EncodeOptions,
    MediaRequest,
    ReconstructOptions,
    find_card,
    find_decoder,
    parse_options,
)
from service.operations.render import render
from service.sandbox.pool import MediaPool
from service.settings import Settings
from service.types import Backend, Encoded, ModelCard, Timing, Want


@dataclass(frozen=True)
class _Clip:
    """Pixels ready for the model, and where they came from.

    Args:
        pixels: uint8 RGB (T, H, W, 3).
        decode_ms: time spent on decoding the media, milliseconds.
    """

    pixels: NDArray[np.uint8]
    decode_ms: float
    fps: float | None = None
    source: SourceInfo | None = None
    preprocess: Preprocess | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        frames, height, width = self.pixels.shape[:3]
        return frames, height, width


class TokenizerRoutes:
    """`POST /encode`, `/decode` and `/reconstruct`.

    Args:
        backend: the tokenizer tier.
        media: decodes and compresses media.
        settings: limits and the deadline.
    """

    def __init__(self, backend: Backend, media: MediaPool, settings: Settings) -> None:
        self._backend, self._media = backend, media
        self._limits, self._seconds = settings.limits, settings.request_seconds
        self._room = BodyRoom(settings.held_body_bytes)

    async def encode(self, request: Request) -> Response:
        """Image or video to tokens, latents, or both."""
        return await self._answer(request, of_media=True, work=self._encode)

    async def decode(self, request: Request) -> Response:
        """Tokens or latents to an image, a video, or raw frames."""
        return await self._answer(request, of_media=False, work=self._decode)

    async def reconstruct(self, request: Request) -> Response:
        """Image or video through the tokenizer and back, in one visit."""
        return await self._answer(request, of_media=True, work=self._reconstruct)

    async def _answer(self, request: Request, of_media: bool, work: Any) -> Response:
        parse_accept(request.headers.get("accept"))  # a header that makes no sense is refused before the body is read
        with self._room.taken() as take:
            body = await read_body(request, self._limits, of_media, take)
            return await while_connected(request, self._in_time(work(request, body)))

    async def _in_time(self, work: Coroutine[Any, Any, Response]) -> Response:
        try:
            async with asyncio.timeout(self._seconds) as deadline:
                return await work
        except TimeoutError as error:
            if not deadline.expired():
                raise
            detail = f"the answer was not ready after {self._seconds:g} s"
            raise ProblemError("deadline-exceeded", detail, limit=self._seconds) from error

    async def _encode(self, request: Request, body: Body) -> Response:
        upload = await asyncio.to_thread(parse_media, body, self._limits)
        options = parse_options(EncodeOptions, request.scope["query_string"], upload.options)
        card = self._note(request, find_card(await self._backend.models(), options.model))
        want = options.want(card)
        accept = request.headers.get("accept")
        require(accept, _code_offers(want, in_json=True), "the answer")
        clip = await self._pixels(upload, options)
        positions = self._check_tokens(card, clip.size)
        in_json = positions <= self._limits.json_tokens
        reason = "the answer" if in_json else f"an answer of more than {self._limits.json_tokens} positions"
        media_type = require(accept, _code_offers(want, in_json), reason)
        encoded = await self._backend.encode(card.id, clip.pixels, want)
        started = time.perf_counter()
        result = _result(request, card, clip, encoded)
        data = await asyncio.to_thread(write_codes, result, media_type)
        return self._respond(data, media_type, card, clip.decode_ms, encoded.timing, started)

    async def _decode(self, request: Request, body: Body) -> Response:
        started = time.perf_counter()
        upload = await asyncio.to_thread(parse_codes, body, self._limits)
        result, meta = upload.result, upload.result.meta
        decode_ms = 1000 * (time.perf_counter() - started)
        options = parse_options(DecodeOptions, request.scope["query_string"], upload.options)
        card = self._note(request, find_decoder(await self._backend.models(), options, meta))
        size = options.size(meta, card, result.grid)
        self._check_tokens(card, size)
        if size[0] > self._limits.kept_frames:
            detail = f"a request has at most {self._limits.kept_frames} frames"
            raise ProblemError("too-many-frames", detail, self._limits.kept_frames, size[0])
        codes = _codes(result, card)
        media_type = require(request.headers.get("accept"), pixel_offers(size[0]), _amount(size[0]))
        decoded = await self._backend.decode(card.id, codes, size)
        rendering = time.perf_counter()
        fps = options.fps or meta.fps or DEFAULT_FPS
        data = await render(decoded.pixels, media_type, fps, options.quality, card, self._media)
        return self._respond(data, media_type, card, decode_ms, decoded.timing, rendering)

    async def _reconstruct(self, request: Request, body: Body) -> Response:
        upload = await asyncio.to_thread(parse_media, body, self._limits)
        options = parse_options(ReconstructOptions, request.scope["query_string"], upload.options)
        card = self._note(request, find_card(await self._backend.models(), options.model))
        clip = await self._pixels(upload, options)
        self._check_tokens(card, clip.size)
        media_type = require(request.headers.get("accept"), pixel_offers(clip.size[0]), _amount(clip.size[0]))
        decoded = await self._backend.reconstruct(card.id, clip.pixels)
        rendering = time.perf_counter()
        quality = await asyncio.to_thread(psnr, clip.pixels, decoded.pixels)
        fps = options.fps or clip.fps or DEFAULT_FPS
        data = await render(decoded.pixels, media_type, fps, options.quality, card, self._media)
        response = self._respond(data, media_type, card, clip.decode_ms, decoded.timing, rendering)
        response.headers["X-Omnitok-PSNR"] = f"{quality.mean():.4f}"
        return response

    async def _pixels(self, upload: MediaUpload, options: MediaRequest) -> _Clip:
        if upload.array is not None:
            options.refuse_media_options()
            return _Clip(upload.array, decode_ms=0.0)
        assert upload.media is not None
        started = time.perf_counter()
        frames = await self._media.decode(upload.media, upload.declared, options.media())
        decode_ms = 1000 * (time.perf_counter() - started)
        return _Clip(frames.pixels, decode_ms, frames.fps, frames.source, frames.preprocess)

    def _check_tokens(self, card: ModelCard, size: tuple[int, int, int]) -> int:
        t, h, w = card.geometry.grid(size)
        if t * h * w > self._limits.tokens:
            detail = f"the grid {t}x{h}x{w} is over {self._limits.tokens} positions; use a smaller size or fewer frames"
            raise ProblemError("too-many-tokens", detail, self._limits.tokens, t * h * w)
        return t * h * w

    def _note(self, request: Request, card: ModelCard) -> ModelCard:
        request.state.model = card.id
        return card

    def _respond(
        self, data: bytes, media_type: str, card: ModelCard, decode_ms: float, timing: Timing, rendering: float
    ) -> Response:
        spent = {
            "decode": decode_ms,
            "queue": timing.queue_ms,
            "compute": timing.compute_ms,
            "render": 1000 * (time.perf_counter() - rendering),
        }
        headers = {
            "Vary": "Accept",
            "X-Omnitok-Model": card.id,
            "X-Omnitok-Bundle": card.hash,
            "Server-Timing": ", ".join(f"{name};dur={milliseconds:.2f}" for name, milliseconds in spent.items()),
        }
        return Response(data, headers=headers, media_type=media_type)


def _code_offers(want: Want, in_json: bool) -> tuple[str, ...]:
    """Media types for tokens and latents, the default first."""
    offers = (MSGPACK, JSON, SAFETENSORS, NPZ) if in_json else (MSGPACK, SAFETENSORS, NPZ)
    return (*offers, NPY) if want == "tokens" else offers


def _amount(frames: int) -> str:
    return "a picture" if frames == 1 else f"a clip of {frames} frames"


def _result(request: Request, card: ModelCard, clip: _Clip, encoded: Encoded) -> EncodeResult:
    timing = TimingMeta(
        decode_ms=clip.decode_ms,
        queue_ms=encoded.timing.queue_ms,
        compute_ms=encoded.timing.compute_ms,
        total_ms=1000 * (time.perf_counter() - request.state.started),
    )
    frames, height, width = clip.size
    meta = EncodeMeta(
        id=request.state.request_id,
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
    tokens = encoded.tokens
    if tokens is not None and card.codebook_size is not None and card.codebook_size <= 2**16:
        return EncodeResult(meta, tokens.astype(np.uint16), encoded.latents)
    return EncodeResult(meta, tokens, encoded.latents)


def _codes(result: EncodeResult, card: ModelCard) -> NDArray[Any]:
    """Return the codes that the bundle decodes: int32 tokens or float32 latents, checked."""
    if card.codebook_size is not None:
        if result.tokens is None:
            raise ProblemError("invalid-tensor", f"{card.id} decodes tokens, and only latents came")
        low, high = int(result.tokens.min()), int(result.tokens.max())
        if low < 0 or high >= card.codebook_size:
            detail = f"tokens of {card.id} lie from 0 to {card.codebook_size - 1}"
            raise ProblemError("token-out-of-range", detail, card.codebook_size - 1, low if low < 0 else high)
        return result.tokens.astype(np.int32)
    if result.latents is None:
        raise ProblemError("invalid-tensor", f"{card.id} decodes latents, and only tokens came")
    if result.latents.shape[-1] != card.latent_channels:
        detail = f"latents of {card.id} have {card.latent_channels} channels"
        raise ProblemError("invalid-tensor", detail, card.latent_channels, result.latents.shape[-1])
    if not np.isfinite(result.latents).all():
        raise ProblemError("invalid-tensor", "latents must be finite")
    return result.latents.astype(np.float32)
