"""`/jobs`: the records, the events and the content of work that was submitted with `Prefer: respond-async`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.caller import owner_of
from service.api.disconnect import while_connected
from service.api.errors import ClientGoneError
from service.api.job_polls import POLL_SECONDS
from service.api.jobs import document
from service.api.openapi import query_parameters
from service.api.query import parse_options
from service.api.send import SLICE_BYTES, STREAM_HEADERS, send_piece
from service.api.services import Services, ServicesOf
from service.api.transfer import end_wait
from service.errors import ProblemError
from service.formats.media_types import EVENT_STREAM
from service.jobs.records import Job
from service.operations.options import JobsOptions

PIECE_BYTES = SLICE_BYTES  # of a content: its slow readers, of whom there may be many, hold a piece each
HEARTBEAT_POLLS = 20
# A stream ends before proxies lose patience and before a service that stops does; browsers then resume it.
STREAM_SECONDS = 30.0
RECONNECT_MILLISECONDS = 500
LAST_EVENT_HEADER = "Last-Event-ID"
MAX_EVENT_DIGITS = 18

router = APIRouter(tags=["jobs"])
JobId = Annotated[str, Path(description="id of a job of the caller")]
BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.get("/jobs", openapi_extra={"parameters": query_parameters(JobsOptions)})
async def jobs(request: Request, services: ServicesOf) -> dict[str, Any]:
    """List the caller's jobs, the newest first."""
    options = parse_options(JobsOptions, request.scope["query_string"])
    found = await services.jobs.jobs(owner_of(request), options.limit + 1, options.after)
    return {
        "object": "list",
        "data": [document(job) for job in found[: options.limit]],
        "has_more": len(found) > options.limit,
    }


@router.get("/jobs/{job_id}")
async def job(job_id: JobId, request: Request, services: ServicesOf) -> dict[str, Any]:
    """Describe one job: status, progress, error, content."""
    return document(await services.jobs.get(owner_of(request), job_id))


@router.delete("/jobs/{job_id}")
async def delete(job_id: JobId, request: Request, services: ServicesOf) -> dict[str, Any]:
    """Cancel a job that is not finished; forget one that is, and its content."""
    owner = owner_of(request)
    known = await services.jobs.get(owner, job_id)
    if known.is_finished:
        await services.jobs.delete(owner, job_id)
        return document(known) | {"deleted": True}
    return document(await services.jobs.cancel(owner, job_id)) | {"deleted": False}


@router.get(
    "/jobs/{job_id}/content",
    response_class=Response,
    responses={200: {"description": "of the type that was chosen by Accept", "content": {"*/*": BINARY}}},
)
async def content(job_id: JobId, request: Request, services: ServicesOf) -> Response:
    """Return what a job made."""
    return await content_of(request, services, await services.jobs.get(owner_of(request), job_id))


@router.get(
    "/jobs/{job_id}/events",
    response_class=Response,
    responses={
        200: {"description": "events", "content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
        204: {"description": "the job is finished, and the reader has seen its last event"},
    },
    openapi_extra={
        "parameters": [
            {
                "name": LAST_EVENT_HEADER,
                "in": "header",
                "required": False,
                "schema": {"type": "integer", "minimum": 0},
                "description": "number of the last event that was read; the stream resumes after it",
            }
        ]
    },
)
async def events(job_id: JobId, request: Request, services: ServicesOf) -> Response:
    """Stream the events of a job for half a minute at most; a reader resumes after the last one that it saw."""
    given = request.headers.get(LAST_EVENT_HEADER, "").strip() or "0"
    if not (given.isascii() and given.isdecimal() and len(given) <= MAX_EVENT_DIGITS):
        raise ProblemError("bad-header", f"{LAST_EVENT_HEADER} must be the number of an event.")
    known = await services.jobs.get(owner_of(request), job_id)
    if known.is_finished and int(given) >= known.last_event:
        return Response(status_code=204)  # or a browser would resume for ever
    return JobEvents(request, services, job_id, int(given))


async def content_of(request: Request, services: Services, job: Job) -> Response:
    """Return the content of a job.

    Raises:
        ProblemError: `job-unfinished`, `job-without-content`, or `unknown-job` when it has just been removed.
    """
    if not job.is_finished:
        detail = f"The job is {job.status}: {job.done} of {job.total} steps are done. Ask again."
        raise ProblemError("job-unfinished", detail, job.total, job.done, retry_after_seconds=1)
    if job.media_type is None or job.content_bytes is None:
        raise ProblemError("job-without-content", f"The job is {job.status}. GET /jobs/{job.id} says why.")
    first = await services.jobs.read(job.owner, job.id, 0, PIECE_BYTES)
    return JobContent(services, job, first)


class JobContent(Response):
    """The content of a job, read piece by piece.

    Args:
        services: of the application.
        job: completed.
        first: its first piece.
    """

    def __init__(self, services: Services, job: Job, first: bytes) -> None:
        super().__init__(media_type=job.media_type)
        self.headers["Content-Length"] = str(job.content_bytes)
        self._jobs, self._job, self._readers, self._first = services.jobs, job, services.readers, first
        self._stall_seconds = services.settings.limits.stream_idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces.

        Raises:
            ClientGoneError: the reader left before the end or made place for others, or the content ends early.
        """
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with asyncio.timeout(None) as timer:
                with self._readers.reading(self._job.owner, partial(end_wait, timer)):
                    await while_connected(Request(scope, receive), self._send_all(send))
        except TimeoutError as error:
            raise ClientGoneError from error

    async def _send_all(self, send: Send) -> None:
        sent, piece, self._first = 0, self._first, b""
        while True:
            sent += len(piece)
            more = sent < (self._job.content_bytes or 0)
            await send_piece(send, piece, self._stall_seconds, more)
            if not more:
                return
            try:
                piece = await self._jobs.read(self._job.owner, self._job.id, sent, PIECE_BYTES)
            except ProblemError as error:  # it was removed; the reader notices by its length
                raise ClientGoneError from error
            if not piece:  # a damaged disk has less of it than its record says
                raise ClientGoneError


class JobEvents(Response):
    """The events of a job as they happen.

    Args:
        request: the request.
        services: of the application.
        job_id: a job of the caller.
        after: number of the last event that the reader knows.
    """

    media_type = EVENT_STREAM

    def __init__(self, request: Request, services: Services, job_id: str, after: int) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._owner, self._polls, self._job_id, self._after = owner_of(request), services.job_polls, job_id, after
        self._readers, self._ended = services.readers, asyncio.Event()
        self._stall_seconds = services.settings.limits.stream_idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events.

        Raises:
            ClientGoneError: the reader left before the end.
        """
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with self._readers.reading(self._owner, self._ended.set):
            await while_connected(Request(scope, receive), self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async for text in self._texts():
            await send_piece(send, text.encode(), self._stall_seconds)
        await send_piece(send, b"", self._stall_seconds, more=False)

    async def _texts(self) -> AsyncIterator[str]:
        yield f"retry: {RECONNECT_MILLISECONDS}\n\n"
        after, silent = self._after, 0
        for _ in range(int(STREAM_SECONDS / POLL_SECONDS)):
            try:
                found = await self._polls.events(self._owner, self._job_id, after)
            except ProblemError:  # the reader resumes, and hears why
                return
            for event in found:
                after = event.number
                yield f"id: {event.number}\nevent: {event.name}\ndata: {json.dumps(event.fields)}\n\n"
                if event.name in ("completed", "failed", "cancelled"):
                    return
            silent = 0 if found else silent + 1
            if silent and not silent % HEARTBEAT_POLLS:
                yield ":\n\n"
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._ended.wait()
                    return  # the reader resumes
