"""Failures of a replica's work as answers: what is raised, Ray logs as a failure of the replica."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TypeVar

from service.errors import ProblemError
from service.scheduling.executor import DeviceFault

Answer = TypeVar("Answer")

log = logging.getLogger("ray.serve")


async def answer_of(work: Awaitable[Answer], tier: str, trace: str | None) -> Answer | ProblemError:
    """Return the result of work, or the refusal that its caller shall see.

    Args:
        work: of one request.
        tier: that does it: tokenizer or generator.
        trace: the `traceparent` of the call, or None.

    Raises:
        DeviceFault: the accelerator is broken.
    """
    try:
        return await work
    except ProblemError as problem:
        return problem
    except DeviceFault:  # raised, so that the caller asks another replica
        raise
    except Exception:
        log.exception("a request to the %s failed, traceparent %s", tier, trace)
        return ProblemError("internal", f"The {tier} failed on this request.")
