"""The routes that tell what the service is, what it allows and how it is."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter

from service.errors import PROBLEMS, ProblemError
from service.operations.options import find_card
from service.sandbox.pool import MediaPool
from service.settings import Settings
from service.types import Backend


def info_router(backend: Backend, media: MediaPool, settings: Settings) -> APIRouter:
    """`GET` routes without side effects.

    Args:
        backend: the tokenizer tier.
        media: the media pool, whose life is part of readiness.
        settings: what `/limits` shows.
    """
    router = APIRouter()

    @router.get("/models", tags=["models"])
    async def models() -> dict[str, Any]:
        """The bundles that are served; the first one is the default."""
        cards = await backend.models()
        return {"default": find_card(cards, None).id, "models": [card.as_dict() for card in cards]}

    @router.get("/models/{model}", tags=["models"])
    async def model(model: str) -> dict[str, Any]:
        """One bundle: hash, head, codebook, patch sizes, precision, licence."""
        return find_card(await backend.models(), model).as_dict()

    @router.get("/limits", tags=["service"])
    async def limits() -> dict[str, float]:
        """Every limit in force; bytes, pixels, frames and seconds as the names say."""
        return settings.limits.model_dump() | {"request_seconds": settings.request_seconds}

    @router.get("/version", tags=["service"])
    async def about() -> dict[str, str]:
        """The version of the service."""
        return {"name": "omnitok", "version": version("omnitok")}

    @router.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """Answer as long as the process lives."""
        return {"status": "live"}

    @router.get("/health/ready", tags=["health"])
    async def ready() -> dict[str, str]:
        """Answer 200 while requests can be served: a tokenizer replica answers and the media workers are up."""
        if not media.alive:
            raise ProblemError("not-ready", "the media workers are not running", retry_after_seconds=1)
        find_card(await backend.models(), None)
        return {"status": "ready"}

    @router.get("/problems/{slug}", tags=["service"])
    async def problem(slug: str) -> dict[str, Any]:
        """Describe a problem type."""
        if slug not in PROBLEMS:
            raise ProblemError("not-found", f"the problems are {', '.join(PROBLEMS)}")
        status, title = PROBLEMS[slug]
        return {"type": f"/problems/{slug}", "status": status, "title": title}

    return router
