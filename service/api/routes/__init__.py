"""The routes, one module a resource; an operator of the tokenizers is added to `TOKENIZER_ROUTES`."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.routes import (
    about,
    decode,
    encode,
    generate,
    health,
    jobs,
    models,
    openai,
    reconstruct,
    remote_vae,
    videos,
)

TOKENIZER_ROUTES = (encode.ROUTE, decode.ROUTE, reconstruct.ROUTE, remote_vae.ENCODE, remote_vae.DECODE)


def routers() -> list[APIRouter]:
    """Return the routers of all resources, in the order of the documentation."""
    tokenizer = APIRouter(tags=["tokenizer"])
    for route in TOKENIZER_ROUTES:
        route.add_to(tokenizer)
    generator = APIRouter(tags=["generator"])
    for route in (generate.ROUTE, openai.ROUTE, videos.ROUTE):
        route.add_to(generator)
    return [tokenizer, generator, videos.router, jobs.router, models.router, about.router, health.router]
