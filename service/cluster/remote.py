"""Calls of a deployment that outlive its replicas: retries, deadlines, and the list of bundles that it named last."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from grpc import StatusCode
from grpc.aio import AioRpcError
from ray.exceptions import NodeDiedError, ObjectLostError, ObjectStoreFullError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from service.errors import ProblemError
from service.metrics.http import IngressMetrics
from service.scheduling.executor import DeviceFault
from service.settings import Settings
from service.shared_task import SharedTask
from service.trace import current as current_trace

FIRST_BACKOFF_SECONDS = 0.05
CARDS_SECONDS = 5.0  # how long the list of bundles is believed, and how long it is waited for; readiness follows

# The replica took the call down with it, so nobody has seen an answer, and every call may be repeated.
REPLICA_LOSS_ERRORS = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    ReplicaUnavailableError,
    DeviceFault,
)
REPLICA_LOSS_STATUSES = (StatusCode.UNAVAILABLE, StatusCode.CANCELLED, StatusCode.ABORTED)  # said by gRPC, not by Ray

log = logging.getLogger("ray.serve")


def traceparent() -> str | None:
    """Return the header of the trace that the present request belongs to, or None."""
    trace = current_trace.get()
    return None if trace is None else trace.header


class Remote:
    """A deployment behind its handle.

    Args:
        handle: the deployment.
        settings: the deadline of a request and how often it is tried.
        metrics: counts repeated calls.
    """

    def __init__(self, handle: DeploymentHandle, settings: Settings, metrics: IngressMetrics) -> None:
        self._handle = handle
        self._settings = settings
        self._metrics = metrics
        self._cards: SharedTask[list[Any]] | None = None
        self._cards_until = 0.0

    async def _remembered_cards(self, method: str) -> list[Any]:
        """Return what a living replica answered in the last few seconds; a crowd asks once."""
        cards = self._cards
        if cards is None or (not cards.running and asyncio.get_running_loop().time() >= self._cards_until):
            cards = self._cards = SharedTask(self._ask_cards(method))
        return await cards.result()

    async def _ask_cards(self, method: str) -> list[Any]:
        try:
            cards: list[Any] = await self._retry(lambda _: self._once(method), CARDS_SECONDS)
        except ProblemError as problem:
            if problem.code != "deadline-exceeded":
                raise
            detail = f"No replica answered within {CARDS_SECONDS:g} s."
            raise ProblemError("not-ready", detail, retry_after_seconds=1) from None
        self._cards_until = asyncio.get_running_loop().time() + CARDS_SECONDS
        return cards

    async def _retry(self, attempt: Callable[[float], Awaitable[Any]], seconds: float) -> Any:
        """Return the answer of the first replica that lives to give one.

        Args:
            attempt: asks one replica, before a time on the loop's clock.
            seconds: time left.

        Raises:
            ProblemError: the replica's own, or `not-ready` when every one was lost.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        for number in range(self._settings.tries):
            if number:
                self._metrics.retried()
                await asyncio.sleep(FIRST_BACKOFF_SECONDS * 2**number * random.uniform(0.5, 1))
            try:
                answer = await self._in_time(attempt, deadline)
            except (*REPLICA_LOSS_ERRORS, AioRpcError) as error:
                if isinstance(error, AioRpcError) and error.code() not in REPLICA_LOSS_STATUSES:
                    raise
                log.warning("a replica was lost under a request: %s", type(error).__name__)
                continue
            if isinstance(answer, ProblemError):
                if answer.code == "draining":  # this replica goes; another one stays
                    continue
                raise answer
            return answer
        raise ProblemError(
            "not-ready",
            "Every replica that took the request was lost.",
            actual=self._settings.tries,
            retry_after_seconds=1,
        )

    async def _in_time(self, attempt: Callable[[float], Awaitable[Any]], deadline: float) -> Any:
        try:
            async with asyncio.timeout_at(deadline):
                return await attempt(deadline)
        except TimeoutError:
            raise ProblemError("deadline-exceeded", "The deadline passed before a replica answered.") from None
        except (BackPressureError, ObjectStoreFullError):
            raise ProblemError("overloaded", "Every replica is busy.", retry_after_seconds=1) from None

    async def _once(self, method: str, *arguments: Any, handle: DeploymentHandle | None = None) -> Any:
        response = getattr(handle or self._handle, method).remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:  # the deadline's doing, or the caller's
            response.cancel()
            raise
