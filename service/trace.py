"""W3C trace context (https://www.w3.org/TR/trace-context/): a request's place in the trace of its caller."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Self

VERSION = "00"
PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
MAX_PARENT_CHARACTERS = 512  # a later version may be longer than ours
KEY = r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
MEMBER = re.compile(rf"({KEY})={VALUE}", re.ASCII)
MAX_MEMBERS, MAX_STATE_CHARACTERS = 32, 512


SAMPLED = "01"


class TraceContext(NamedTuple):
    """The span of one request.

    Args:
        trace_id: of the whole trace, 32 hex digits.
        span_id: of this request, 16 hex digits; the parent of the calls that it makes.
        parent_id: of the caller's span, or None for a trace that begins here.
        flags: two hex digits, as they came.
        state: the header `tracestate`, as it came; empty if there is none.
    """

    trace_id: str
    span_id: str
    parent_id: str | None = None
    flags: str = "00"
    state: str = ""

    @classmethod
    def begin(cls) -> Self:
        """Return the first span of a new trace."""
        random = os.urandom(24).hex()
        return cls(random[:32], random[32:])

    @classmethod
    def join(cls, parents: Sequence[str], states: Sequence[str]) -> Self:
        """Return a span of the caller's trace, or of a new one if the caller names none that is valid.

        Args:
            parents: the values of the header `traceparent`, of which there may be one.
            states: the values of the header `tracestate`.
        """
        match = PARENT.fullmatch(parents[0]) if len(parents) == 1 and len(parents[0]) <= MAX_PARENT_CHARACTERS else None
        if match is None:
            return cls.begin()
        version, trace_id, parent_id, flags, more = match.groups()
        if version == "ff" or (version == VERSION and more) or not (trace_id.strip("0") and parent_id.strip("0")):
            return cls.begin()
        if version != VERSION:
            flags = "01" if int(flags, 16) & 1 else "00"  # the only flag whose meaning later versions keep
        return cls(trace_id, os.urandom(8).hex(), parent_id, flags, _valid_state(states) if states else "")

    @property
    def sampled(self) -> bool:
        """Return whether its spans are to be exported."""
        return bool(int(self.flags, 16) & 1)

    def sample(self, ratio: float) -> Self:
        """Return the span with that share of new traces sampled; one of a caller's trace is as the caller says."""
        chosen = self.parent_id is None and int(self.trace_id[:8], 16) < ratio * 2**32
        return self._replace(flags=SAMPLED) if chosen else self

    @property
    def header(self) -> str:
        """Return the value of `traceparent` for a call that this request makes."""
        return f"{VERSION}-{self.trace_id}-{self.span_id}-{self.flags}"


class Stage(NamedTuple):
    """A part of a request.

    Args:
        name: of its span.
        begun, ended: on `time.perf_counter`.
        attributes: of its span.
        children: its own parts.
    """

    name: str
    begun: float
    ended: float
    attributes: Mapping[str, Any]
    children: tuple[Stage, ...] = ()


current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)
stages: ContextVar[list[Stage] | None] = ContextVar("stages", default=None)  # of a request that is sampled


def note_stage(name: str, begun: float, **attributes: Any) -> None:
    """Note a part of the present request that ends now."""
    if (noted := stages.get()) is not None:
        noted.append(Stage(name, begun, time.perf_counter(), attributes))


def note_batch(begun: float, queue_ms: float, compute_ms: float, **attributes: Any) -> None:
    """Note a visit to a queue of batches that ends now: the wait, and what the device did."""
    if (noted := stages.get()) is not None:
        ended = time.perf_counter()
        computing = max(begun, ended - compute_ms / 1000)
        waiting = max(begun, computing - queue_ms / 1000)
        parts = (Stage("queue", waiting, computing, {}), Stage("gpu", computing, ended, {}))
        noted.append(Stage("batch", begun, ended, attributes, parts))


def packed_trace() -> bytes:
    """Return the ids of the present trace and span, 24 bytes; zeros if there is none."""
    trace = current.get()
    return bytes(24) if trace is None else bytes.fromhex(trace.trace_id + trace.span_id)


def _valid_state(states: Sequence[str]) -> str:
    """Return the list of all headers together, or nothing if any part of it is malformed."""
    state = ",".join(states)
    if len(state) > MAX_STATE_CHARACTERS:
        return ""
    members = [member.strip(" \t") for member in state.split(",")]
    matches = [MEMBER.fullmatch(member) for member in members if member]
    keys = [match[1] for match in matches if match is not None]
    if None in matches or len(matches) > MAX_MEMBERS or len(set(keys)) < len(keys):
        return ""
    return ",".join(member for member in members if member)
