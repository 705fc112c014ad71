"""W3C trace context, from the caller's headers to the answer and to what the request calls."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest
from api_media import picture
from api_server import Server

from service.trace import TraceContext, current
from service.types import Encoded

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("parent", "flags"),
    [(PARENT, "01"), (f"00-{TRACE}-{SPAN}-00", "00"), (f"cc-{TRACE}-{SPAN}-03-what-is-to-come", "01")],
)
def test_a_valid_parent_is_joined(parent: str, flags: str) -> None:
    trace = TraceContext.join([parent], [])
    assert (trace.trace_id, trace.parent_id, trace.flags) == (TRACE, SPAN, flags)
    assert trace.header == f"00-{TRACE}-{trace.span_id}-{flags}"
    assert trace.span_id != SPAN


@pytest.mark.parametrize(
    "parents",
    [
        [],
        [""],
        [PARENT, PARENT],
        [PARENT.upper()],
        [PARENT + "-more"],
        [PARENT + "\n"],
        [PARENT[:-1]],
        [f"ff{PARENT[2:]}"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"cc-{TRACE}-{SPAN}-01.x"],
        [f"cc-{TRACE}-{SPAN}-01-{'x' * 600}"],
    ],
)
def test_without_a_valid_parent_a_trace_begins(parents: Sequence[str]) -> None:
    trace = TraceContext.join(parents, ["a=1"])
    assert (trace.parent_id, trace.state) == (None, "")
    assert TraceContext.join([trace.header], []).trace_id == trace.trace_id != TRACE


def test_traces_that_begin_here_are_sampled_by_their_share() -> None:
    begun = [TraceContext.begin() for _ in range(400)]
    assert sum(trace.sample(0.25).sampled for trace in begun) == pytest.approx(100, abs=60)
    assert all(trace.sample(1.0).sampled and not trace.sample(0.0).sampled for trace in begun)
    assert not TraceContext.join([f"00-{TRACE}-{SPAN}-00"], []).sample(1.0).sampled
    assert TraceContext.join([PARENT], []).sample(0.0).sampled


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (["congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"], "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
        (["a=1", "b@c=2"], "a=1,b@c=2"),
        (["a=1 ,\tb=2,,"], "a=1,b=2"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a=1,b"], ""),
        (["a=" + "x" * 257], ""),
        ([",".join(f"k{number}=1" for number in range(33))], ""),
        (["a=é"], ""),
    ],
)
def test_a_malformed_state_is_dropped_and_the_parent_kept(states: Sequence[str], kept: str) -> None:
    trace = TraceContext.join([PARENT], states)
    assert (trace.trace_id, trace.state) == (TRACE, kept)


def test_the_answer_and_the_tiers_continue_the_trace(
    server: Server, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TraceContext | None] = []
    encode = server.backend.encode

    async def noted(*arguments: object, **options: object) -> Encoded:
        seen.append(current.get())
        return await encode(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(server.backend, "encode", noted)
    headers = {"Content-Type": "image/png", "traceparent": PARENT, "tracestate": "a=1"}
    answers = [http.post("/encode", content=picture(), headers=headers) for _ in range(2)]
    spans = [answer.headers["traceresponse"] for answer in answers]
    assert len(set(spans)) == 2
    assert [trace and (trace.header, trace.state) for trace in seen] == [(span, "a=1") for span in spans]
    refusal = http.post("/encode", content=b"", headers=headers)
    assert refusal.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert http.get("/health/live").headers["traceresponse"][3:35] != TRACE
