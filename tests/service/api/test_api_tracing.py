"""Spans of requests, as a collector receives them over HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from api_media import picture
from api_server import Server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.settings import Settings
from service.tracing import otlp_exporter

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Keeps the spans that are sent to it."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        spans, resources = self.spans, self.resources

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for part in ExportTraceServiceRequest.FromString(body).resource_spans:
                    resources.append({one.key: one.value.string_value for one in part.resource.attributes})
                    spans.extend(span for scope in part.scope_spans for span in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    def of(self, header: str) -> dict[str, Any]:
        """Return the spans of a trace by name, the request's own as "request"."""
        _, trace, own, _ = header.split("-")
        mine = [span for span in self.spans if span.trace_id.hex() == trace]
        return {"request" if span.span_id.hex() == own else span.name: span for span in mine}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    threading.Thread(target=collector.server.serve_forever, args=(0.01,), daemon=True).start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture(scope="module")
def answers(collector: Collector) -> dict[str, httpx.Response]:
    exporter = otlp_exporter(f"http://127.0.0.1:{collector.server.server_port}", "replica-1")
    png = {"Content-Type": "image/png"}
    with Server(Settings(), exporter=exporter) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        sent = {
            "joined": http.post(
                "/reconstruct", content=picture(), headers=png | {"traceparent": f"00-{TRACE}-{SPAN}-01"}
            ),
            "own": http.post("/encode", content=picture(), headers=png),
            "refused": http.post("/encode", content=b"no picture", headers=png),
            "unsampled": http.post(
                "/encode", content=picture(), headers=png | {"traceparent": f"00-{TRACE}-{SPAN}-00"}
            ),
        }
    exporter.close()
    return sent


def test_a_request_and_its_stages_are_spans_of_the_callers_trace(
    collector: Collector, answers: dict[str, httpx.Response]
) -> None:
    spans = collector.of(answers["joined"].headers["traceresponse"])
    assert set(spans) == {"request", "media", "batch", "queue", "gpu", "render"}
    request, batch = spans["request"], spans["batch"]
    assert (request.name, request.parent_span_id.hex()) == ("POST /reconstruct", SPAN)
    attributes = {one.key: one.value for one in request.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["omnitok.request_id"].string_value == answers["joined"].headers["x-request-id"]
    for name, parent in {"media": request, "batch": request, "render": request, "queue": batch, "gpu": batch}.items():
        span = spans[name]
        assert span.parent_span_id == parent.span_id, name
        assert parent.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano, name
        assert span.end_time_unix_nano <= parent.end_time_unix_nano, name
    assert spans["media"].end_time_unix_nano <= batch.start_time_unix_nano
    assert collector.resources[0]["service.name"] == "omnitok"
    assert collector.resources[0]["service.instance.id"] == "replica-1"


def test_a_trace_that_begins_here_is_sampled_and_says_so(
    collector: Collector, answers: dict[str, httpx.Response]
) -> None:
    header = answers["own"].headers["traceresponse"]
    assert header.endswith("-01")
    assert not collector.of(header)["request"].parent_span_id


def test_a_refusal_is_a_span_with_its_problem(collector: Collector, answers: dict[str, httpx.Response]) -> None:
    request = collector.of(answers["refused"].headers["traceresponse"])["request"]
    attributes = {one.key: one.value for one in request.attributes}
    assert attributes["omnitok.problem"].string_value == answers["refused"].json()["code"]


def test_what_a_caller_does_not_sample_is_not_exported(
    collector: Collector, answers: dict[str, httpx.Response]
) -> None:
    header = answers["unsampled"].headers["traceresponse"]
    assert header.endswith("-00")
    assert "request" not in collector.of(header)
