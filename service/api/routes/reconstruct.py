"""`POST /reconstruct`."""

from __future__ import annotations

import time

from starlette.responses import Response

from service.api.exchange import Exchange
from service.api.parsing import MEDIA, MediaUpload
from service.api.routes.route import Route
from service.formats.pixels import DEFAULT_FPS, PIXEL_TYPES, amount, pixel_offers
from service.operations.bundles import find_card
from service.operations.clip import check_size, render
from service.operations.options import ReconstructOptions
from service.operations.reconstruct import reconstruct as run


async def reconstruct(exchange: Exchange, upload: MediaUpload, options: ReconstructOptions) -> Response:
    """Pass an image or a video through the tokenizer and back, in one visit."""
    card = find_card(await exchange.backend.models(), options.model)
    exchange.use(card)
    clip = await upload.clip(exchange.media, options)
    check_size(card, clip.info.size, exchange.limits)
    frames = clip.info.size[0]
    media_type = exchange.choose(pixel_offers(frames), amount(frames))
    copy = await run(exchange.backend, card, clip)
    rendering = time.perf_counter()
    fps = options.fps or clip.info.fps or DEFAULT_FPS
    data = await render(copy.pixels, media_type, fps, options.quality, card, exchange.media)
    response = exchange.respond(data, media_type, card, clip.decode_ms, copy.timing, rendering)
    response.headers["X-Omnitok-PSNR"] = f"{copy.psnr.mean():.4f}"
    return response


ROUTE = Route("/reconstruct", MEDIA, ReconstructOptions, PIXEL_TYPES, reconstruct)
