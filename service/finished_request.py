"""A request that is over, as the HTTP tier hands it to its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

CLIENT_CLOSED_STATUS = 499  # no standard names one; nginx logs this


class FinishedRequest(NamedTuple):
    """A request that is over. The values of route, method and problem come from closed sets.

    Args:
        route: such as "/encode", or "other".
        method: such as "POST", or "other".
        status: of the answer, or 499 when the client left first or its own, shorter deadline passed.
        seconds: from the first byte of the request to the last of the answer.
        bytes_in, bytes_out: bodies, bytes.
        problem: the code of its refusal, or None.
        notes: further fields of its line in the log, such as "queue_ms".
    """

    route: str
    method: str
    status: int
    seconds: float
    bytes_in: int
    bytes_out: int
    problem: str | None
    notes: Mapping[str, Any]
