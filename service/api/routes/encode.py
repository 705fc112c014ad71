"""`POST /encode`."""

from __future__ import annotations

import asyncio
import time

from starlette.responses import Response

from service.api.exchange import Exchange
from service.api.parsing import MEDIA, MediaUpload
from service.api.routes.route import INLINE_BYTES, Route
from service.formats.codes import CODES_TYPES, write_codes
from service.formats.media_types import MSGPACK
from service.operations.encode import EncodePlan
from service.operations.encode import encode as run
from service.operations.options import EncodeOptions


async def encode(exchange: Exchange, upload: MediaUpload, options: EncodeOptions) -> Response:
    """Encode an image or a video to tokens, latents, or both."""

    def accept(plan: EncodePlan, positions: int | None) -> None:
        exchange.use(plan.card)
        exchange.choose_codes(plan.want, positions)

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
    if encoded.result.nbytes <= INLINE_BYTES and exchange.media_type == MSGPACK:
        data = write_codes(encoded.result, MSGPACK)
    else:
        data = await asyncio.to_thread(write_codes, encoded.result, exchange.media_type)
    return exchange.respond(data, encoded.card, encoded.decode_ms, encoded.timing, rendering)


ROUTE = Route("/encode", MEDIA, EncodeOptions, CODES_TYPES, encode)
