"""The tokenizer routes without FastAPI's dispatch, which costs more than their own work on a small body."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from media.errors import MediaError
from service.api.errors import on_problem
from service.api.routes.route import Route
from service.api.services import Services
from service.errors import ProblemError


class DirectRoutes:
    """Middleware that answers `POST`s of some routes; all else goes on. FastAPI knows the same routes too.

    Args:
        app: what it wraps: FastAPI's router.
        routes: those that are answered here.
        services: of the application.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route], services: Services) -> None:
        self._app, self._services = app, services
        self._routes = {f"{prefix}{route.path}": route for route in routes for prefix in ("", "/v1")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None or scope.get("root_path"):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await route.answer(request, self._services)
        except (ProblemError, MediaError) as error:
            response = await on_problem(request, error)
        await response(scope, receive, send)
