"""`POST /decode`."""

from __future__ import annotations

import time

from starlette.responses import Response

from service.api.exchange import Exchange
from service.api.parsing import CODES, CodesUpload
from service.api.routes.route import Route
from service.formats.pixels import PIXEL_TYPES, amount, pixel_offers
from service.operations.clip import check_size, render
from service.operations.decode import plan_decode
from service.operations.options import DecodeOptions


async def decode(exchange: Exchange, upload: CodesUpload, options: DecodeOptions) -> Response:
    """Decode tokens or latents to an image, a video, or raw frames."""
    plan = plan_decode(await exchange.backend.models(), upload.result, options)
    exchange.use(plan.card)
    check_size(plan.card, plan.size, exchange.limits)
    frames = plan.size[0]
    media_type = exchange.choose(pixel_offers(frames), amount(frames))
    decoded = await exchange.backend.decode(plan.card.id, plan.codes, plan.size)
    rendering = time.perf_counter()
    data = await render(decoded.pixels, media_type, plan.fps, options.quality, plan.card, exchange.media)
    return exchange.respond(data, media_type, plan.card, exchange.parse_ms, decoded.timing, rendering)


ROUTE = Route("/decode", CODES, DecodeOptions, PIXEL_TYPES, decode)
