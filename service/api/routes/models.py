"""`GET /models` and `GET /models/{model}`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service.api.services import ServicesOf
from service.operations.bundles import find_card

router = APIRouter(tags=["models"])


@router.get("/models")
async def models(services: ServicesOf) -> dict[str, Any]:
    """List the bundles that are served; the first one is the default."""
    cards = await services.backend.models()
    return {"default": find_card(cards, None).id, "models": [card.as_dict() for card in cards]}


@router.get("/models/{model}")
async def model(model: str, services: ServicesOf) -> dict[str, Any]:
    """Describe one bundle: hash, head, codebook, patch sizes, precision, licence."""
    return find_card(await services.backend.models(), model).as_dict()
