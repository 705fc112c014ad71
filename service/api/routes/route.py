"""The declaration of a tokenizer route: what it takes and gives, from which handler and OpenAPI are made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from media.identify import MEDIA_TYPES
from service.api.body import Body, BodyKind, declared_bytes, read_body
from service.api.caller import caller_of, flow_of, group_of
from service.api.content_type import ALIASES
from service.api.deadline import Deadline
from service.api.disconnect import while_connected
from service.api.event_stream import EventStream
from service.api.exchange import Exchange
from service.api.negotiation import parse_accept
from service.api.openapi import describe
from service.api.query import parse_options
from service.api.replay import IDEMPOTENCY_HEADER, prefers_async
from service.api.services import Services, services_of
from service.api.streaming import StreamForm, answer_stream
from service.errors import ProblemError
from service.flow import current as current_flow
from service.formats.media_types import MSGPACK_SEQUENCE
from service.offload import offload
from service.operations.options import RouteOptions
from service.settings import Limits, Settings


@dataclass(frozen=True)
class Route:
    """A `POST` route.

    Args:
        path: such as "/encode".
        takes: bodies that it reads.
        options: of its query, or of its body's `options`.
        gives: media types of its answers, the default first.
        work: makes the answer of an exchange, the parsed body and the options; its docstring describes the route.
        seconds: deadline of the work.
        in_query: whether options may come in the query.
        stream: the form that reads the body while it answers, or None.
        as_job: whether the work can be submitted with `Prefer: respond-async`.
        pure: whether equal requests have equal answers.
        only_jobs: whether the work is always submitted.
    """

    path: str
    takes: BodyKind
    options: type[RouteOptions]
    gives: tuple[str, ...]
    work: Callable[[Exchange, Any, Any], Awaitable[Response]]
    seconds: Callable[[Settings], float] = lambda settings: settings.request_seconds
    in_query: bool = True
    stream: StreamForm | None = None
    as_job: bool = False
    pure: bool = False
    only_jobs: bool = False

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
            openapi_extra=self.description(),
            response_class=Response,
        )

    def description(self) -> dict[str, Any]:
        """Return the fields of its operation in OpenAPI."""
        gives = self.gives if self.stream is None else (*self.gives, MSGPACK_SEQUENCE)
        return describe(self.takes, self.options if self.in_query else None, gives, self.as_job)

    async def answer(self, request: Request, services: Services) -> Response:
        """Answer a request. Full queues refuse before its body is read where they can know.

        Raises:
            ProblemError, MediaError: for anything wrong with the request, and for what the service cannot do now.
            ClientGoneError: the connection closed first.
        """
        parse_accept(request.headers.get("accept"))  # nonsense is refused before the body is read
        current_flow.set(flow_of(request))
        if self.stream is not None and self.stream.applies(request):
            return await answer_stream(request, services, self.stream, self.options)
        try:
            return await self._answer_whole(request, services)
        except ProblemError as problem:
            # Other routes have several queues, and the body says which: one per generator, and one of jobs.
            if problem.code == "overloaded" and self.pure and not self._may_be_known(request, services):
                seconds = services.refusals.pause(self._kind(request), problem)
                request.state.refuse_alike_ms = max(1, round(1000 * seconds))
            raise

    async def _answer_whole(self, request: Request, services: Services) -> Response:
        limits = services.settings.limits
        deadline = Deadline.of(request, self.seconds(services.settings))
        paced = self.pure and current_flow.get().priority == "interactive"  # other work waits by design
        as_job = self._is_job(request)
        kind, size = self._kind(request), declared_bytes(request)
        if not self._may_be_known(request, services):
            services.refusals.check(kind, size, deadline.seconds)
            if paced:
                services.expected_wait.check()
            if _media_type(request) in MEDIA_TYPES:
                services.media.check_load(caller_of(request), services.expected_wait.seconds() if paced else 0.0)
        with ExitStack() as stack:
            place = stack.enter_context(services.admission.receiving(long=not (self.pure or as_job)))
            body = await read_body(request, self.takes, limits, place, deadline)
            if paced:
                stack.enter_context(services.expected_wait.passing(request.state.notes))

            async def work() -> Response:
                started = time.perf_counter()
                upload = await _parse(self.takes, body, limits)
                query = request.scope["query_string"] if self.in_query else b""
                parse_ms = 1000 * (time.perf_counter() - started)
                options = parse_options(self.options, query, upload.options)
                return await self.work(Exchange(request, services, parse_ms, deadline), upload, options)

            # The store of jobs remembers the keys of submissions by itself.
            answer = services.replays.answer(request, body, self.pure, not as_job, work)
            try:
                response = await while_connected(request, deadline.hold(answer))
            except ProblemError as problem:
                services.refusals.note(kind, size, deadline.seconds, problem)
                raise
            if isinstance(response, EventStream):  # its work goes on, and may hold the body
                response.release = stack.pop_all().close
            return response

    def _is_job(self, request: Request) -> bool:
        return self.only_jobs or (self.as_job and prefers_async(request))

    def _kind(self, request: Request) -> tuple[str, ...]:
        """Return what requests have in common that one full queue refuses.

        A connection has one request at a time, so where there are no keys, a refused one held nothing of the queue.
        """
        job = "job" if self._is_job(request) else ""
        return group_of(request), current_flow.get().priority, self.path, _media_type(request), job

    def _may_be_known(self, request: Request, services: Services) -> bool:
        """Return whether the answer may be there already, so that a full queue does not matter."""
        cached = self.pure and services.replays.cache is not None
        return cached or IDEMPOTENCY_HEADER in request.headers


def _media_type(request: Request) -> str:
    """Return the type of a body as its header has it, which nobody has checked yet."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return ALIASES.get(media_type, media_type)


async def _parse(kind: BodyKind, body: Body, limits: Limits) -> Any:
    if body.content_type.media_type in kind.inline:
        return await offload(len(body.data), kind.parse, body, limits)
    return await asyncio.to_thread(kind.parse, body, limits)
