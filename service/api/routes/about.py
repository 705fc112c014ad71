"""`GET /limits`, `GET /version` and `GET /problems/{slug}`."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Path

from service.api.services import ServicesOf
from service.errors import PROBLEMS, ProblemError

router = APIRouter(tags=["service"])
Slug = Annotated[str, Path(description="code of a problem, as in its document")]


@router.get("/limits")
async def limits(services: ServicesOf) -> dict[str, int | float]:
    """List every limit in force; bytes, pixels, frames and seconds as the names say."""
    settings = services.settings
    deadlines = {name: getattr(settings, name) for name in ("request_seconds", "generate_seconds", "job_seconds")}
    return asdict(settings.limits) | deadlines


@router.get("/version")
async def about() -> dict[str, str]:
    """Return the version of the service."""
    return {"name": "omnitok", "version": version("omnitok")}


@router.get("/problems/{slug}")
async def problem(slug: Slug) -> dict[str, Any]:
    """Describe a problem type."""
    if slug not in PROBLEMS:
        raise ProblemError("not-found", f"The problems are {', '.join(PROBLEMS)}.")
    status, title = PROBLEMS[slug]
    return {"type": f"/problems/{slug}", "status": status, "title": title}
