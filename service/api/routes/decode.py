"""`POST /decode`."""

from __future__ import annotations

from starlette.responses import Response

from service.api.exchange import Exchange
from service.api.parsing import CODES, CodesUpload
from service.api.routes.route import Route
from service.formats.pixels import PIXEL_TYPES
from service.operations.decode import DecodePlan
from service.operations.decode import decode as run
from service.operations.options import DecodeOptions


async def decode(exchange: Exchange, upload: CodesUpload, options: DecodeOptions) -> Response:
    """Decode tokens or latents to an image, a video, or raw frames."""

    def accept(plan: DecodePlan) -> None:
        exchange.use(plan.card)
        exchange.choose_pixels(plan.size[0])

    decoded = await run(exchange.backend, upload.result, options, exchange.limits, accept)
    return await exchange.respond_pixels(decoded, options.quality, exchange.parse_ms)


ROUTE = Route("/decode", CODES, DecodeOptions, PIXEL_TYPES, decode)
