"""The deadline of a request: one for all of its stages, from its first byte on."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import ProblemError

HEADER = "X-Request-Timeout-Seconds"
SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?", re.ASCII)
# Ray's proxy cuts the connection at the header's time: the problem document must be there before.
MARGIN_SECONDS, MARGIN_SHARE = 0.15, 0.1

T = TypeVar("T")


class Deadline:
    """The end of the time that a request may take.

    Args:
        started: when its first byte came, on `time.perf_counter`.
        seconds: from then on.
    """

    def __init__(self, started: float, seconds: float) -> None:
        self.seconds = seconds
        self._at = started + seconds

    @classmethod
    def of(cls, request: Request, most: float) -> Deadline:
        """Return the deadline that a request's header asks for, at most the service's own.

        The request's state notes as `own_deadline` that it is shorter than the service's.

        Args:
            request: the request.
            most: the service's own, seconds.

        Raises:
            ProblemError: `bad-header`.
        """
        given = request.headers.getlist(HEADER)
        if not given:
            return cls(request.state.started, most)
        if len(given) > 1 or not SECONDS.fullmatch(given[0]) or not (asked := float(given[0])):
            raise ProblemError("bad-header", f"{HEADER} must be one positive number of seconds, such as 2.5.")
        request.state.own_deadline = asked < most
        return cls(request.state.started, min(most, asked - min(MARGIN_SECONDS, MARGIN_SHARE * asked)))

    def left(self) -> float:
        """Return the seconds that are left, 0 at least."""
        return max(0.0, self._at - time.perf_counter())

    def passed(self, phase: str) -> ProblemError:
        """Return the refusal of a request that is late.

        Args:
            phase: what was not done in time, such as "The body had not arrived".
        """
        return ProblemError("deadline-exceeded", f"{phase} after {self.seconds:g} s. Send less.", self.seconds)

    async def hold(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work returns.

        Raises:
            ProblemError: `deadline-exceeded`.
        """
        try:
            async with asyncio.timeout(self.left()) as timer:
                return await work
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise self.passed("No answer was ready") from error


class ChunkDeadline(Deadline):
    """The deadline of a stream, which every chunk has anew.

    Args:
        seconds: for each chunk.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(0.0, seconds)

    def left(self) -> float:
        """Return the seconds of a chunk."""
        return self.seconds
