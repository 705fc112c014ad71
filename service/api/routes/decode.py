"""`POST /decode`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.responses import Response

from service.api.exchange import Exchange
from service.api.parsing import CODES, CodesUpload
from service.api.routes.route import Route
from service.api.streaming import BodyStream, StreamForm, read_records
from service.formats.media_types import MSGPACK_SEQUENCE
from service.formats.pixels import PIXEL_TYPES
from service.formats.records import Record
from service.operations.decode import DecodePlan
from service.operations.decode import decode as run
from service.operations.decode_stream import decode_stream
from service.operations.options import DecodeOptions


async def decode(exchange: Exchange, upload: CodesUpload, options: DecodeOptions) -> Response:
    """Decode tokens or latents to an image, a video, or raw frames."""

    def accept(plan: DecodePlan) -> None:
        exchange.use(plan.card)
        exchange.choose_pixels(plan.size[0])

    decoded = await run(exchange.backend, upload.result, options, exchange.limits, accept)
    return await exchange.respond_pixels(decoded, options.quality, exchange.parse_ms)


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
)
