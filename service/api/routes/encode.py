"""`POST /encode`."""

from __future__ import annotations

import asyncio
import time

from starlette.responses import Response

from service.api.exchange import Exchange
from service.api.parsing import MEDIA, MediaUpload
from service.api.routes.route import Route
from service.formats.codes import write_codes
from service.formats.media_types import JSON, MSGPACK, NPY, NPZ, SAFETENSORS
from service.formats.result import TimingMeta
from service.operations.clip import check_size
from service.operations.encode import plan_encode
from service.operations.options import EncodeOptions
from service.types import Want

# The first one is the default: ordinary tools open an npz. Programs ask for msgpack, which is 0.1 ms cheaper to write.
GIVES = (NPZ, MSGPACK, SAFETENSORS, JSON, NPY)


async def encode(exchange: Exchange, upload: MediaUpload, options: EncodeOptions) -> Response:
    """Encode an image or a video to tokens, latents, or both."""
    plan = plan_encode(await exchange.backend.models(), options)
    exchange.use(plan.card)
    exchange.choose(_offers(plan.want), "the answer")
    clip = await upload.clip(exchange.media, options)
    positions = check_size(plan.card, clip.info.size, exchange.limits)
    in_json = positions <= exchange.limits.json_tokens
    answer = "the answer" if in_json else f"an answer of more than {exchange.limits.json_tokens} positions"
    media_type = exchange.choose(_offers(plan.want, in_json), answer)
    encoded = await exchange.backend.encode(plan.card.id, clip.pixels, plan.want)
    rendering = time.perf_counter()
    timing = TimingMeta(
        decode_ms=clip.decode_ms,
        queue_ms=encoded.timing.queue_ms,
        compute_ms=encoded.timing.compute_ms,
        total_ms=1000 * (rendering - exchange.started),
    )
    result = plan.result(encoded.tokens, encoded.latents, clip.info, exchange.id, timing)
    data = await asyncio.to_thread(write_codes, result, media_type)
    return exchange.respond(data, media_type, plan.card, clip.decode_ms, encoded.timing, rendering)


def _offers(want: Want, in_json: bool = True) -> tuple[str, ...]:
    """Return the media types that hold these outputs; npy holds a single array, and lists in JSON are for few."""
    left_out = {NPY} if want != "tokens" else set()
    return tuple(name for name in GIVES if name not in left_out and (in_json or name != JSON))


ROUTE = Route("/encode", MEDIA, EncodeOptions, GIVES, encode)
