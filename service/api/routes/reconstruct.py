"""`POST /reconstruct`."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from service.api.exchange import Exchange
from service.api.parsing import MEDIA, MediaUpload
from service.api.routes.route import Route
from service.formats.pixels import PIXEL_TYPES
from service.operations.options import ReconstructOptions
from service.operations.reconstruct import reconstruct as run
from service.types import ModelCard


async def reconstruct(exchange: Exchange, upload: MediaUpload, options: ReconstructOptions) -> Response:
    """Pass an image or a video through the tokenizer and back, in one visit."""

    def accept(card: ModelCard, frames: int | None) -> None:
        exchange.use(card)
        if frames is not None:
            exchange.choose_pixels(frames)

    copy = await run(exchange.backend, exchange.media, upload.source, options, exchange.limits, accept)
    shown = await asyncio.to_thread(copy.side_by_side) if options.side_by_side else copy
    response = await exchange.respond_pixels(shown, options.quality, copy.decode_ms)
    response.headers["X-Omnitok-PSNR"] = f"{copy.psnr.mean():.4f}"
    return response


ROUTE = Route("/reconstruct", MEDIA, ReconstructOptions, PIXEL_TYPES, reconstruct, pure=True)
