"""The parts of the service that routes share: the tiers, the media pool, the jobs, the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from service.api.admission import Admission
from service.api.codebooks import Codebooks
from service.api.job_polls import JobPolls
from service.api.pace import Pace
from service.api.readers import Readers
from service.api.recent_refusals import RecentRefusals
from service.api.replay import AnswerCache, Replays
from service.jobs.queue import JobQueue, NoJobQueue
from service.sandbox.pool import MediaPool
from service.settings import Settings
from service.stored_answer import KeyedAnswers, LocalKeyedAnswers
from service.types import Backend, GeneratorBackend


@dataclass(frozen=True)
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

    backend: Backend
    generators: GeneratorBackend
    media: MediaPool
    settings: Settings
    jobs: JobQueue = field(default_factory=NoJobQueue)
    keyed: KeyedAnswers | None = None
    admission: Admission = field(init=False)
    replays: Replays = field(init=False)
    codebooks: Codebooks = field(init=False)
    job_polls: JobPolls = field(init=False)
    readers: Readers = field(init=False, default_factory=Readers)
    refusals: RecentRefusals = field(init=False, default_factory=RecentRefusals)
    pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        object.__setattr__(self, "admission", Admission(settings))
        object.__setattr__(self, "pace", Pace(settings.max_queue_seconds))
        cache = AnswerCache(settings.cache_bytes, settings.cache_seconds) if settings.cache_bytes else None
        keyed = self.keyed or LocalKeyedAnswers(settings.idempotency_bytes, settings.idempotency_seconds)
        replays = Replays(self.backend, cache, keyed if settings.idempotency_bytes else None)
        object.__setattr__(self, "replays", replays)
        object.__setattr__(self, "codebooks", Codebooks(self.backend))
        object.__setattr__(self, "job_polls", JobPolls(self.jobs))


def services_of(request: Request) -> Services:
    """Return the services of the application that answers a request."""
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(services_of)]
