"""`POST /decode`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from starlette.responses import Response

from service.api.exchange import Exchange
from service.api.items import Claim, Items, Outcome, answer_items
from service.api.parsing import CODES, CodesUpload
from service.api.routes.route import Route
from service.api.streaming import BodyStream, StreamForm, read_records
from service.formats.media_types import MSGPACK_SEQUENCE
from service.formats.pixels import PIXEL_TYPES, pixel_map
from service.formats.records import Record
from service.formats.result import EncodeResult
from service.operations.concurrency import gather_or_cancel, result_or_refusal
from service.operations.decode import DecodePlan
from service.operations.decode import decode as run
from service.operations.decode_stream import decode_stream
from service.operations.options import DecodeOptions
from service.types import Timing


async def decode(exchange: Exchange, upload: CodesUpload | Items[EncodeResult], options: DecodeOptions) -> Response:
    """Decode tokens or latents to an image, a video, or raw frames."""
    if isinstance(upload, Items):
        return await answer_items(exchange, upload, partial(_decode_items, exchange, options))

    def accept(plan: DecodePlan) -> None:
        exchange.use(plan.card)
        exchange.choose_pixels(plan.size[0])

    decoded = await run(exchange.backend, upload.result, options, exchange.limits, accept)
    return await exchange.respond_pixels(decoded, options.quality, exchange.parse_ms)


async def _decode_items(
    exchange: Exchange, options: DecodeOptions, results: Sequence[EncodeResult], claim: Claim
) -> list[Outcome]:
    timings: list[Timing] = []

    def accept(plan: DecodePlan) -> None:
        exchange.use(plan.card)
        claim(plan.card.geometry.positions(plan.size))

    async def one(result: EncodeResult) -> dict[str, Any]:
        decoded = await run(exchange.backend, result, options, exchange.limits, accept)
        timings.append(decoded.timing)
        return pixel_map(decoded.pixels, decoded.fps, decoded.card)

    outcomes = await gather_or_cancel(result_or_refusal(one(result)) for result in results)
    exchange.note_items(timings)
    return outcomes


def stream(
    exchange: Exchange, body: BodyStream, media_type: str, options: DecodeOptions
) -> AsyncGenerator[Record, None]:
    """Decode tokens or latents while they arrive."""
    records = read_records(aiter(body), exchange.limits.tensor_bytes)
    return decode_stream(
        exchange.backend, records, options, exchange.limits, exchange.chunk_positions, exchange.use, exchange.id
    )


ROUTE = Route(
    "/decode",
    CODES,
    DecodeOptions,
    PIXEL_TYPES,
    decode,
    stream=StreamForm(
        (MSGPACK_SEQUENCE,),
        lambda request: request.headers.get("content-type", "").partition(";")[0].strip().lower() == MSGPACK_SEQUENCE,
        stream,
    ),
    pure=True,
)
