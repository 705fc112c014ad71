"""The declaration of a tokenizer route: what it takes and gives, from which handler and OpenAPI are made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.body import BodyKind, read_body, while_connected
from service.api.exchange import Exchange
from service.api.negotiation import parse_accept
from service.api.openapi import describe
from service.api.query import parse_options
from service.api.services import Services, services_of
from service.errors import ProblemError
from service.operations.options import RouteOptions


@dataclass(frozen=True)
class Route:
    """A `POST` route.

    Args:
        path: such as "/encode".
        takes: bodies that it reads.
        options: of its query, or of its body's `options`.
        gives: media types of its answers, the default first.
        work: makes the answer of an exchange, the parsed body and the options; its docstring describes the route.
    """

    path: str
    takes: BodyKind
    options: type[RouteOptions]
    gives: tuple[str, ...]
    work: Callable[[Exchange, Any, Any], Awaitable[Response]]

    def add_to(self, router: APIRouter) -> None:
        """Add the route to a router."""

        async def handler(request: Request) -> Response:
            return await self.answer(request, services_of(request))

        router.add_api_route(
            self.path,
            handler,
            methods=["POST"],
            name=self.path.strip("/"),
            description=self.work.__doc__,
            openapi_extra=describe(self.takes, self.options, self.gives),
            response_class=Response,
        )

    async def answer(self, request: Request, services: Services) -> Response:
        """Answer a request.

        Raises:
            ProblemError, MediaError: for anything wrong with the request, and for what the service cannot do now.
            ClientGoneError: the connection closed first.
        """
        limits = services.settings.limits
        parse_accept(request.headers.get("accept"))  # nonsense is refused before the body is read
        with services.bodies.taken() as take:
            body = await read_body(request, self.takes, limits, take)

            async def work() -> Response:
                started = time.perf_counter()
                upload = await asyncio.to_thread(self.takes.parse, body, limits)
                parse_ms = 1000 * (time.perf_counter() - started)
                options = parse_options(self.options, request.scope["query_string"], upload.options)
                return await self.work(Exchange(request, services, parse_ms), upload, options)

            return await while_connected(request, _in_time(work(), services.settings.request_seconds))


async def _in_time(work: Coroutine[Any, Any, Response], seconds: float) -> Response:
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await work
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise ProblemError(
            "deadline-exceeded", f"No answer was ready after {seconds:g} s. Send less.", seconds
        ) from error
