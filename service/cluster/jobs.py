"""Jobs on Ray Serve: the one replica that owns their store, and the way to it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ray

from service.cluster.node_metrics import join_node
from service.cluster.ray_environment import ray_tmpdir
from service.cluster.refusals import answer_of
from service.cluster.remote import Remote
from service.errors import ProblemError
from service.in_process import job_store
from service.jobs.queue import JobQueue, LocalJobQueue
from service.metrics.replica import JobMetrics
from service.settings import Settings

CALL_SECONDS = 20.0  # a new owner starts within

log = logging.getLogger("ray.serve")


class JobOwner:
    """The replica that keeps the jobs. Refusals are returned, not raised: Ray would log each as a failure."""

    def __init__(self, settings: Settings) -> None:
        node = join_node(settings, "JobOwner")
        self._queue = LocalJobQueue(job_store(settings, settings.jobs_folder or _folder()))
        self._metrics = JobMetrics(settings.job_bytes)
        node.ready()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the store."""
        return await answer_of(self._queue.call(method, *arguments), "store of jobs", None)

    async def check_health(self) -> None:
        """Sweep the store and report its state; Ray calls this every few seconds."""
        try:
            self._metrics.report(await self._queue.sweep())
        except ProblemError as problem:  # another replica would meet the same disk
            log.error("the jobs cannot be swept: %s", problem)

    def __del__(self) -> None:
        """Let the next owner have the store; Ray Serve calls this when the replica has drained."""
        self._queue.close()


class RayJobQueue(Remote, JobQueue):
    """The jobs behind a deployment handle."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the store; an owner that is lost is waited for.

        Raises:
            ProblemError: the store's own, or `not-ready`.
        """
        try:
            return await self._retry(lambda deadline: self._once("call", method, *arguments), CALL_SECONDS)
        except ProblemError as problem:
            if problem.code != "deadline-exceeded":
                raise
            detail = f"The owner of the jobs has not answered within {CALL_SECONDS:g} s. Try again."
            raise ProblemError("not-ready", detail, retry_after_seconds=1) from None


def _folder() -> Path:
    """Return a folder for jobs that live as long as this cluster."""
    return ray_tmpdir() / f"omnitok-jobs-{ray.get_runtime_context().get_session_name()}"
