"""`POST /vae/decode` and `/vae/encode`: diffusers' protocol of remote VAEs."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from starlette.responses import Response

from media.identify import IMAGE_TYPES
from service.api.body import Body, BodyKind
from service.api.exchange import Exchange
from service.api.negotiation import accepts_by_name
from service.api.parsing import check_media
from service.api.routes.route import Route
from service.errors import ProblemError
from service.formats.binary import BINARY_TENSOR
from service.formats.media_types import OCTET_STREAM
from service.operations.clip import ClipSource
from service.operations.remote_vae import (
    RemoteDecodeOptions,
    RemoteEncodeOptions,
    check_latents,
    check_pixels,
    clips_of,
    decode_batch,
    encode_batch,
    find_vae,
    latents_of,
    latents_tensor,
    pixel_tensor,
)
from service.settings import Limits
from service.types import ModelCard, Timing

PICTURES = {"jpg": "image/jpeg", "png": "image/png"}
MP4 = "video/mp4"


@dataclass(frozen=True)
class RawUpload:
    """A body that only the query explains."""

    data: bytes
    media_type: str
    options: object = None


def parse(body: Body, limits: Limits) -> RawUpload:
    """Return the body as it came."""
    return RawUpload(body.data, body.content_type.media_type)


async def decode(exchange: Exchange, upload: RawUpload, options: RemoteDecodeOptions) -> Response:
    """Decode latents (b, c, h, w) or (b, c, t, h, w) as `remote_decode` of diffusers sends them."""
    card = await find_vae(exchange.backend, options.model)
    exchange.use(card)
    # With a processor the client reads a tensor in place of a picture, and says so by the type that it accepts.
    wants_tensor = options.output_type == "pil" and accepts_by_name(exchange.accept, BINARY_TENSOR)
    as_tensor = options.output_type == "pt" or wants_tensor
    check_latents(card, options, as_tensor, exchange.limits)
    latents = await asyncio.to_thread(latents_of, upload.data, options)
    decoded = await decode_batch(exchange.backend, card, latents, options, exchange.limits)
    rendering = time.perf_counter()
    if as_tensor:
        pixels = await asyncio.to_thread(pixel_tensor, decoded, options, len(options.shape) == 5)
        return _tensor_response(exchange, pixels, card, exchange.parse_ms, decoded[0].timing, rendering)
    exchange.media_type = MP4 if options.output_type == "mp4" else PICTURES[options.image_format]
    return await exchange.respond_pixels(decoded[0], None, exchange.parse_ms)


async def encode(exchange: Exchange, upload: RawUpload, options: RemoteEncodeOptions) -> Response:
    """Encode a picture, or a tensor in [-1, 1], as `remote_encode` of diffusers sends them."""
    card = await find_vae(exchange.backend, options.model)
    exchange.use(card)
    if (options.shape is None) != (options.dtype is None):
        raise ProblemError("invalid-options", "A tensor needs `shape` and `dtype`, and a picture has neither.")
    if options.shape is None or options.dtype is None:
        declared = None if upload.media_type == OCTET_STREAM else upload.media_type
        sources = [check_media(ClipSource(upload.data, declared), exchange.limits)]
    else:
        check_pixels(card, options.shape, exchange.limits)
        sources = await asyncio.to_thread(clips_of, upload.data, options.dtype, options.shape)
        has_frames = len(options.shape) == 5
    encoded = await encode_batch(exchange.backend, exchange.media, card, sources, exchange.limits)
    rendering = time.perf_counter()
    if options.shape is None:
        has_frames = encoded[0].result.grid[0] > 1
    latents = await asyncio.to_thread(latents_tensor, encoded, options, has_frames)
    return _tensor_response(exchange, latents, card, encoded[0].decode_ms, encoded[0].timing, rendering)


def _tensor_response(
    exchange: Exchange, tensor: NDArray[Any], card: ModelCard, decode_ms: float, timing: Timing, rendering: float
) -> Response:
    exchange.media_type = BINARY_TENSOR
    response = exchange.respond(tensor.tobytes(), card, decode_ms, timing, rendering)
    response.headers["shape"] = json.dumps(tensor.shape)
    response.headers["dtype"] = tensor.dtype.name
    return response


LATENTS = BodyKind(
    types=(BINARY_TENSOR, OCTET_STREAM),
    part="",
    unlabelled_bytes=lambda limits: limits.tensor_bytes,
    parse=parse,
    maps=(),
    schema={},
    inline=frozenset({BINARY_TENSOR, OCTET_STREAM}),
)
PIXELS = replace(
    LATENTS,
    types=(*LATENTS.types, *IMAGE_TYPES),
    unlabelled_bytes=lambda limits: max(limits.tensor_bytes, limits.image_bytes),
    inline=LATENTS.inline.union(IMAGE_TYPES),
)
DECODE = Route("/vae/decode", LATENTS, RemoteDecodeOptions, (*PICTURES.values(), MP4, BINARY_TENSOR), decode, pure=True)
ENCODE = Route("/vae/encode", PIXELS, RemoteEncodeOptions, (BINARY_TENSOR,), encode, pure=True)
