"""`POST /encode`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from starlette.responses import Response

from media.identify import VIDEO_TYPES
from service.api.exchange import Exchange
from service.api.items import Claim, Items, Outcome, answer_items
from service.api.negotiation import accepts_by_name
from service.api.parsing import ENCODE_MEDIA, MediaUpload
from service.api.routes.route import Route
from service.api.streaming import BodyStream, StreamForm
from service.formats.codes import CODES_TYPES, write_codes
from service.formats.media_types import MSGPACK, MSGPACK_SEQUENCE, OCTET_STREAM
from service.formats.msgpack import result_map
from service.formats.records import Record
from service.offload import offload
from service.operations.clip import ClipSource
from service.operations.encode import EncodePlan, Encoding, encode_many
from service.operations.encode import encode as run
from service.operations.encode_stream import encode_stream
from service.operations.options import EncodeOptions


async def encode(exchange: Exchange, upload: MediaUpload | Items[ClipSource], options: EncodeOptions) -> Response:
    """Encode an image or a video to tokens, latents, or both."""
    if isinstance(upload, Items):
        return await answer_items(exchange, upload, partial(_encode_items, exchange, options))

    def accept(plan: EncodePlan, positions: int | None) -> None:
        exchange.use(plan.card)
        exchange.choose_codes(plan.want, positions)

    tiers = (exchange.backend, exchange.media)
    encoded = await run(*tiers, upload.source, options, exchange.limits, accept, exchange.id, exchange.started)
    rendering = time.perf_counter()
    if exchange.media_type == MSGPACK:
        data = await offload(encoded.result.nbytes, write_codes, encoded.result, MSGPACK)
    else:
        data = await asyncio.to_thread(write_codes, encoded.result, exchange.media_type)
    return exchange.respond(data, encoded.card, encoded.decode_ms, encoded.timing, rendering)


async def _encode_items(
    exchange: Exchange, options: EncodeOptions, sources: Sequence[ClipSource], claim: Claim
) -> list[Outcome]:
    def accept(plan: EncodePlan, positions: int | None) -> None:
        exchange.use(plan.card)
        claim(positions or 0)

    tiers = (exchange.backend, exchange.media)
    encoded = await encode_many(*tiers, sources, options, exchange.limits, accept, exchange.id, exchange.started)
    done = [outcome for outcome in encoded if isinstance(outcome, Encoding)]
    decode_ms = max((outcome.decode_ms for outcome in done), default=0.0)  # files are decoded at a time
    exchange.note_items([outcome.timing for outcome in done], decode=decode_ms)
    return [result_map(outcome.result) if isinstance(outcome, Encoding) else outcome for outcome in encoded]


def stream(
    exchange: Exchange, body: BodyStream, media_type: str, options: EncodeOptions
) -> AsyncGenerator[Record, None]:
    """Encode a video while it arrives."""
    return encode_stream(
        exchange.backend,
        exchange.media,
        aiter(body),
        None if media_type == OCTET_STREAM else media_type,
        options,
        exchange.limits,
        exchange.chunk_positions,
        exchange.use,
        exchange.id,
    )


ROUTE = Route(
    "/encode",
    ENCODE_MEDIA,
    EncodeOptions,
    CODES_TYPES,
    encode,
    stream=StreamForm(
        (*VIDEO_TYPES, OCTET_STREAM),
        lambda request: accepts_by_name(request.headers.get("accept"), MSGPACK_SEQUENCE),
        stream,
    ),
    pure=True,
)
