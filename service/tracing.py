"""Spans of requests, exported by OpenTelemetry's protocol (OTLP over HTTP) where a collector is configured.

A request's stages are noted while it runs and become spans when it is over, so that a request that is not sampled costs
nothing. Time in the tokenizer tier is known by the timing of its answers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from service.trace import Stage, TraceContext

NANOSECONDS = 1e9
SERVER_ERROR = 500
SEND_SECONDS, MAX_WAITING_SPANS = 2.0, 1024  # two messages: where nobody takes them, a replica ends 4 s later


class SpanExporter:
    """The way of spans to a collector. Spans wait in memory for a moment, and are lost where it takes none.

    Args:
        processor: takes spans that have ended.
        replica: the name of this process.
    """

    def __init__(self, processor: SpanProcessor, replica: str | None) -> None:
        self._processor = processor
        names = {"service.name": "omnitok", "service.version": version("omnitok")}
        self._resource = Resource.create(names | ({} if replica is None else {"service.instance.id": replica}))
        self._scope = InstrumentationScope("omnitok", version("omnitok"))

    def export(self, trace: TraceContext, stages: list[Stage], begun: float, fields: Mapping[str, Any]) -> None:
        """Export a request that is over, as a span with its stages below; see `api.middleware.SpanExporter`."""
        now = time.perf_counter()
        offset = time.time() - now
        mine = _context(trace, trace.span_id)
        parent = None if trace.parent_id is None else _context(trace, trace.parent_id, is_remote=True)
        attributes = {
            "http.request.method": fields["method"],
            "http.route": fields["route"],
            "http.response.status_code": fields["status"],
        } | {f"omnitok.{name}": fields[name] for name in ("request_id", "model", "problem", "caller") if name in fields}
        failed = fields["status"] >= SERVER_ERROR
        self._end(
            f"{fields['method']} {fields['route']}",
            mine,
            parent,
            (begun + offset, now + offset),
            attributes,
            SpanKind.SERVER,
            Status(StatusCode.ERROR, fields.get("problem")) if failed else Status(),
        )
        for stage in stages:
            self._export_stage(stage, trace, mine, offset)

    def close(self) -> None:
        """Export what waits."""
        self._processor.shutdown()

    def _export_stage(self, stage: Stage, trace: TraceContext, parent: SpanContext, offset: float) -> None:
        context = _context(trace, os.urandom(8).hex())
        self._end(stage.name, context, parent, (stage.begun + offset, stage.ended + offset), stage.attributes)
        for child in stage.children:
            self._export_stage(child, trace, context, offset)

    def _end(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        times: tuple[float, float],
        attributes: Mapping[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status | None = None,
    ) -> None:
        begun, ended = (int(seconds * NANOSECONDS) for seconds in times)
        self._processor.on_end(
            ReadableSpan(
                name,
                context,
                parent,
                self._resource,
                dict(attributes),
                kind=kind,
                status=status or Status(),
                start_time=begun,
                end_time=ended,
                instrumentation_scope=self._scope,
            )
        )


def otlp_exporter(endpoint: str, replica: str | None) -> SpanExporter:
    """Return the way to a collector.

    Args:
        endpoint: its address without a path, such as "http://collector:4318".
        replica: the name of this process.
    """
    sender = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=SEND_SECONDS)
    return SpanExporter(BatchSpanProcessor(sender, max_queue_size=MAX_WAITING_SPANS), replica)


def _context(trace: TraceContext, span_id: str, is_remote: bool = False) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote, flags)
