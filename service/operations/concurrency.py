"""Calls of one request that run at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

from media.errors import MediaError
from service.errors import ProblemError

Result = TypeVar("Result")


async def gather_or_cancel(calls: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return all results; the first failure, or the end of the caller, cancels the rest and waits for it."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def result_or_refusal(call: Awaitable[Result]) -> Result | ProblemError | MediaError:
    """Return the result of one call of many, or the refusal that concerns it alone."""
    try:
        return await call
    except (ProblemError, MediaError) as error:
        return error
