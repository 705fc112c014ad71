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
from service.operations.encode import EncodePlan
from service.operations.encode import encode as run
from service.operations.options import EncodeOptions
from service.types import Want

# The first one is the default: ordinary tools open an npz. Programs ask for msgpack, which is 0.1 ms cheaper to write.
GIVES = (NPZ, MSGPACK, SAFETENSORS, JSON, NPY)


async def encode(exchange: Exchange, upload: MediaUpload, options: EncodeOptions) -> Response:
    """Encode an image or a video to tokens, latents, or both."""

    def accept(plan: EncodePlan, positions: int | None) -> None:
        exchange.use(plan.card)
        in_json = positions is None or positions <= exchange.limits.json_tokens
        answer = "The answer" if in_json else f"An answer of more than {exchange.limits.json_tokens} positions"
        exchange.choose(_offers(plan.want, in_json), answer)

    encoded = await run(
        exchange.backend,
        exchange.media,
        upload.source,
        options,
        exchange.limits,
        accept,
        exchange.id,
        exchange.started,
    )
    rendering = time.perf_counter()
    data = await asyncio.to_thread(write_codes, encoded.result, exchange.media_type)
    return exchange.respond(data, encoded.card, encoded.decode_ms, encoded.timing, rendering)


def _offers(want: Want, in_json: bool = True) -> tuple[str, ...]:
    """Return the media types that hold these outputs; npy holds a single array, and lists in JSON are for few."""
    left_out = {NPY} if want != "tokens" else set()
    return tuple(name for name in GIVES if name not in left_out and (in_json or name != JSON))


ROUTE = Route("/encode", MEDIA, EncodeOptions, GIVES, encode)
