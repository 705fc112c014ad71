"""`GET /models`, `GET /models/{model}` and `GET /classes`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from service.api.openapi import BINARY, query_parameters
from service.api.query import parse_options
from service.api.services import ServicesOf
from service.errors import ProblemError
from service.formats.media_types import NPY
from service.operations.bundles import find_card
from service.operations.generators import find_generator, search_classes, served
from service.operations.options import ClassesOptions
from service.types import GeneratorCard, ModelCard

CODEBOOK: dict[int | str, dict[str, Any]] = {200: {"content": {NPY: {"schema": BINARY}}}}
CREATED = 0  # clients of OpenAI's interface expect a time; bundles have none

router = APIRouter(tags=["models"])
ModelId = Annotated[str, Path(description="id of a bundle, as GET /models lists them")]


@router.get("/models")
async def models(services: ServicesOf) -> dict[str, Any]:
    """List the tokenizers and the generators that are served, the default one of each first.

    `object` and `data` hold the same list as clients of OpenAI's interface read it.
    """
    cards, generators = await served(services.backend, services.generators)
    return {
        "object": "list",
        "data": [*map(_entry, cards), *map(_entry, generators)],
        "default": find_card(cards, None).id,
        "models": [_described(card) for card in cards],
        "generators": [_described(card) for card in generators],
    }


@router.get("/models/{model}")
async def model(model: ModelId, services: ServicesOf) -> dict[str, Any]:
    """Describe one bundle: hash, kind, sizes, precision, licence; defaults of a generator."""
    cards, generators = await served(services.backend, services.generators)
    card = next((card for card in generators if card.id == model), None) or find_card(cards, model)
    return _entry(card) | _described(card)


@router.get("/models/{model}/codebook", response_class=Response, responses=CODEBOOK)
async def codebook(model: ModelId, request: Request, services: ServicesOf) -> Response:
    """Return the codes of a VQ bundle as a NumPy file: float32 (codebook_size, latent_channels), row by token."""
    card = find_card(await services.backend.models(), model)
    if card.codebook_size is None:
        raise ProblemError("not-found", f"The bundle {card.id} has latents, and no codebook. Name a VQ bundle.")
    headers = {"ETag": f'"{card.hash}"', "Cache-Control": "no-cache", "X-Omnitok-Bundle": card.hash}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(await services.codebooks.file(card), headers=headers, media_type=NPY)


@router.get("/classes", openapi_extra={"parameters": query_parameters(ClassesOptions)})
async def classes(request: Request, services: ServicesOf) -> dict[str, Any]:
    """List the classes of a generator by id and name."""
    options = parse_options(ClassesOptions, request.scope["query_string"])
    _, generators = await served(services.backend, services.generators)
    card = find_generator(generators, options.model)
    found = [{"id": index, "name": name} for index, name in search_classes(card, options.q)]
    return {"model": card.id, "count": card.class_count, "classes": found}


def _entry(card: ModelCard | GeneratorCard) -> dict[str, Any]:
    return {"id": card.id, "object": "model", "created": CREATED, "owned_by": "omnitok"}


def _described(card: ModelCard | GeneratorCard) -> dict[str, Any]:
    """Return the card without the names of classes, of which there may be a thousand."""
    return {name: value for name, value in card.as_dict().items() if name != "classes"}
