"""The layer around all routes, plain ASGI: counts, one log line, and a problem document for every surprise."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ClientGoneError, problem_of, problem_response
from service.api.log import event
from service.api.request_id import HEADER
from service.finished_request import CLIENT_CLOSED_STATUS, FinishedRequest
from service.trace import Stage, TraceContext
from service.trace import current as current_trace
from service.trace import stages as current_stages

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
TRACE_RESPONSE = b"traceresponse"  # https://w3c.github.io/trace-context/#traceresponse-header
LONGEST_LABEL = 64  # characters; a path may have thousands, each of them a slash


class _HeadAnsweredError(Exception):
    """The answer to a HEAD has been sent; the route that goes on as for a GET ends here."""


class RequestMiddleware:
    """Middleware around the application; `RequestId` wraps this.

    Args:
        app: what it wraps.
        metrics: where finished requests are counted; None counts nothing.
        labels: of the application's routes.
        exporter: of spans; None exports nothing.
        trace_ratio: share of the traces that begin here which is sampled.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: HttpMetrics | None,
        labels: Collection[str],
        exporter: SpanExporter | None = None,
        trace_ratio: float = 0.0,
    ) -> None:
        self._app, self._labels = app, labels
        self._observers = Observers(metrics, exporter, trace_ratio)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = route_label(scope["path"], self._labels)
        await _ObservedRequest(self._app, self._observers, route, scope, receive, send).run()


class HttpMetrics(Protocol):
    """The metrics of the HTTP tier: one observation for each finished request."""

    def observe(self, request: FinishedRequest) -> None:
        """Count a request that is over."""
        ...

    def in_flight(self, route: str, change: int) -> None:
        """Count a request that began (+1) or ended (-1)."""
        ...


class SpanExporter(Protocol):
    """The way of spans to a collector; `tracing.SpanExporter` is one."""

    def export(self, trace: TraceContext, stages: list[Stage], begun: float, fields: Mapping[str, Any]) -> None:
        """Export a request that is over.

        Args:
            trace: its place.
            stages: noted while it ran.
            begun: on `time.perf_counter`.
            fields: of its line in the log.
        """


class Observers(NamedTuple):
    """The receivers of what a request was, in addition to the log; see `RequestMiddleware`."""

    metrics: HttpMetrics | None
    exporter: SpanExporter | None
    trace_ratio: float


class _ObservedRequest:
    """One request and its answer."""

    def __init__(
        self, app: ASGIApp, observers: Observers, route: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._app, self._route = app, route
        self._metrics, self._exporter, trace_ratio = observers
        self._scope, self._receive, self._send = scope, receive, send
        self._started = time.perf_counter()
        self._bytes_in = self._bytes_out = 0
        self._status: int | None = None
        headers = Headers(scope=scope)
        self._id = headers[HEADER]
        self._trace = TraceContext.join(headers.getlist("traceparent"), headers.getlist("tracestate"))
        self._stages: list[Stage] | None = None
        if self._exporter is not None:
            self._trace = self._trace.sample(trace_ratio)
            self._stages = [] if self._trace.sampled else None
        current_trace.set(self._trace)
        current_stages.set(self._stages)
        self._notes: dict[str, Any] = {}
        # A server may share one state among requests; this request gets its own.
        mine = {"request_id": self._id, "started": self._started, "notes": self._notes, "body_read": False}
        self._state = dict(scope.get("state") or {}) | mine
        scope["state"] = self._state
        # HEAD runs as the GET of its path until its headers are there.
        self._method = scope["method"]
        self._inner = {**scope, "method": "GET"} if self._method == "HEAD" else scope

    async def run(self) -> None:
        if self._metrics is not None:
            self._metrics.in_flight(self._route, 1)
        try:
            with suppress(_HeadAnsweredError):
                await self._answer()
        finally:
            self._report()

    async def _answer(self) -> None:
        try:
            await self._app(self._inner, self._count_in, self._count_out)
        except _HeadAnsweredError:
            raise
        except ClientGoneError:
            self._status = CLIENT_CLOSED_STATUS
        except Exception as error:
            refusal = problem_of(error, self._id, trace_id=self._trace.trace_id, route=self._route)
            if self._status is not None:
                raise
            self._state["problem"] = refusal.code
            await problem_response(refusal, self._id, close=True)(self._scope, self._count_in, self._count_out)

    def _report(self) -> None:
        """Count the request, log it and export its span."""
        # Nothing was sent: the server gave the request up because its client left.
        status = CLIENT_CLOSED_STATUS if self._status is None else self._status
        seconds = time.perf_counter() - self._started
        route, method = self._route, self._method if self._method in METHODS else "other"
        sizes, problem = (self._bytes_in, self._bytes_out), self._state.get("problem")
        if self._metrics is not None:
            # Or callers with tiny deadlines of their own would spend the error budget and page operators.
            gave_up = problem == "deadline-exceeded" and status == 504 and self._state.get("own_deadline")
            counted = CLIENT_CLOSED_STATUS if gave_up else status
            self._metrics.observe(FinishedRequest(route, method, counted, seconds, *sizes, problem, self._notes))
            self._metrics.in_flight(route, -1)  # last: what is not in flight any more has been counted
        fields = {
            "request_id": self._id,
            "trace_id": self._trace.trace_id,
            "span_id": self._trace.span_id,
            "parent_id": self._trace.parent_id,
            "route": route,
            "method": method,
            "status": status,
            "caller": self._state.get("caller"),
            "problem": problem,
            **self._notes,
            "milliseconds": round(1000 * seconds, 2),
            "bytes_in": self._bytes_in,
            "bytes_out": self._bytes_out,
        }
        fields = {key: value for key, value in fields.items() if value is not None}
        event(logging.INFO, "request", fields)
        if self._exporter is not None and self._stages is not None:
            self._exporter.export(self._trace, self._stages, self._started, fields)

    async def _count_in(self) -> Message:
        try:
            message = await self._receive()
        except Exception as error:  # Ray raises its own when the proxy has given the request up, or died
            raise ClientGoneError from error
        if message["type"] == "http.request":
            self._bytes_in += len(message.get("body", b""))
            self._state["body_read"] = not message.get("more_body", False)
        return message

    async def _count_out(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {
                **message,
                "headers": [*message.get("headers", ()), (TRACE_RESPONSE, self._trace.header.encode())],
            }
        elif message["type"] == "http.response.body":
            self._bytes_out += len(message.get("body", b""))
        await self._send(message)
        if self._method == "HEAD":  # HAProxy gives the connection to another request now, which would wait for a stream
            await self._send({"type": "http.response.body"})
            raise _HeadAnsweredError


def route_labels(routes: Iterable[BaseRoute]) -> frozenset[str]:
    """Return the labels of routes: their paths without parameters."""
    return frozenset(route.path.partition("/{")[0] for route in routes if isinstance(route, Route))


def route_label(path: str, labels: Collection[str]) -> str:
    """Return the label of a path: the longest of `labels` that it begins with, or "other"."""
    label = path.rstrip("/").removeprefix("/v1")[: LONGEST_LABEL + 1]
    while label and label not in labels:
        label = label.rpartition("/")[0]
    return label or "other"
