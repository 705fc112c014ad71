"""`GET /health/live` and `GET /health/ready`."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.services import ServicesOf
from service.errors import ProblemError
from service.operations.bundles import find_card

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Answer as long as the process lives."""
    return {"status": "live"}


@router.get("/health/ready")
async def ready(services: ServicesOf) -> dict[str, str]:
    """Answer 200 while requests can be served: a tokenizer replica answers and the media workers are up."""
    if not services.media.alive:
        raise ProblemError("not-ready", "The media workers do not run. Try again in a second.", retry_after_seconds=1)
    find_card(await services.backend.models(), None)
    return {"status": "ready"}
