"""W3C trace context (https://www.w3.org/TR/trace-context/): a request's place in the trace of its caller."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple, Self

VERSION = "00"
PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
MAX_PARENT_CHARACTERS = 512  # a later version may be longer than ours
KEY = r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
MEMBER = re.compile(rf"({KEY})={VALUE}", re.ASCII)
MAX_MEMBERS, MAX_STATE_CHARACTERS = 32, 512


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
    def header(self) -> str:
        """Return the value of `traceparent` for a call that this request makes."""
        return f"{VERSION}-{self.trace_id}-{self.span_id}-{self.flags}"


current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)


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
