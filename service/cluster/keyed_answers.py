"""Answers by idempotency key in an actor of the cluster, since a repeated request may reach another ingress replica."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray
from ray.exceptions import RayError

from service.errors import ProblemError
from service.settings import Settings
from service.shared_task import SharedTask
from service.stored_answer import Begun, LocalKeyedAnswers, StoredAnswer

PATIENCE_SECONDS = 15.0  # with an actor that is being replaced, or that Ray cannot be asked for
ACTOR_NAME, NAMESPACE = "omnitok-keyed-answers", "omnitok"


class RayKeyedAnswers:
    """The `KeyedAnswers` of all ingress replicas of a cluster.

    The actor outlives the replica that asked first. It loses its answers when it dies, and is then started anew.

    Args:
        settings: bounds of bytes and seconds.
    """

    def __init__(self, settings: Settings) -> None:
        self._bounds = settings.idempotency_bytes, settings.idempotency_seconds
        self._actor: SharedTask[Any] | None = None

    async def begin(self, key: str, fingerprint: bytes, seconds: float) -> Begun:
        """Return the answer of a request that was answered before, or take it on; as `KeyedAnswers`.

        Raises:
            ProblemError: `not-ready`, the actor cannot be reached.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                begun: Begun = await (await self._store()).begin.remote(key, fingerprint, seconds)
        except (RayError, TimeoutError) as error:
            self._forget()
            detail = "The store of idempotency keys is being replaced. Ask again in a second."
            raise ProblemError("not-ready", detail, retry_after_seconds=1) from error
        return begun

    async def renew(self, key: str, ticket: int, seconds: float) -> None:
        """Say that a request that was taken on is worked on; as `KeyedAnswers`."""
        with contextlib.suppress(RayError):  # what it knew is lost
            await (await self._store()).renew.remote(key, ticket, seconds)

    async def finish(self, key: str, ticket: int, answer: StoredAnswer | None) -> None:
        """Keep the answer of a request that was taken on; as `KeyedAnswers`."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await (await self._store()).finish.remote(key, ticket, answer)
        except (RayError, TimeoutError):  # what it knew is lost; the answer goes out all the same
            self._forget()

    async def _store(self) -> Any:
        """Return the actor. A thread looks it up: that takes Ray a minute while its GCS is away."""
        if self._actor is None or self._actor.failed:
            self._actor = SharedTask(asyncio.to_thread(self._find))
        return await self._actor.result()

    def _forget(self) -> None:
        if self._actor is not None and not self._actor.running:
            self._actor = None

    def _find(self) -> Any:
        options: dict[str, Any] = {
            "name": ACTOR_NAME,
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "lifetime": "detached",
            "max_restarts": -1,
            "num_cpus": 0,
        }
        return ray.remote(LocalKeyedAnswers).options(**options).remote(*self._bounds)
