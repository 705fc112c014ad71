"""The parts of the service that routes share: the tiers, the media pool, the jobs, the settings."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from service.api.admission import Admission
from service.api.codebooks import Codebooks
from service.api.expected_wait import ExpectedWait
from service.api.job_polls import JobPolls
from service.api.readers import Readers
from service.api.recent_refusals import RecentRefusals
from service.api.replay import AnswerCache, Replays
from service.jobs.queue import JobQueue
from service.sandbox.pool import MediaPool
from service.settings import Settings
from service.stored_answer import KeyedAnswers, LocalKeyedAnswers
from service.types import Backend, GeneratorBackend


class Services:
    """Everything that a route may use; one for each application.

    Args:
        backend: the tokenizer tier.
        generators: the generators.
        media: decodes and compresses media.
        settings: limits and the deadline.
        jobs: the queue of jobs.
        keyed: answers by idempotency key, shared with other ingress processes; None for those of this one alone.
    """

    def __init__(
        self,
        backend: Backend,
        generators: GeneratorBackend,
        media: MediaPool,
        settings: Settings,
        jobs: JobQueue,
        keyed: KeyedAnswers | None,
    ) -> None:
        self.backend, self.generators, self.media = backend, generators, media
        self.settings, self.jobs = settings, jobs
        self.admission, self.expected_wait = Admission(settings), ExpectedWait(settings.max_queue_seconds)
        self.refusals, self.readers = RecentRefusals(), Readers()
        self.codebooks, self.job_polls = Codebooks(backend), JobPolls(jobs)
        cache = AnswerCache(settings.cache_bytes, settings.cache_seconds) if settings.cache_bytes else None
        keyed = keyed or LocalKeyedAnswers(settings.idempotency_bytes, settings.idempotency_seconds)
        self.replays = Replays(backend, cache, keyed if settings.idempotency_bytes else None)


def services_of(request: Request) -> Services:
    """Return the services of the application that answers a request."""
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(services_of)]
