"""The work of one job: a generation, rendered as its content."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from service.errors import ProblemError
from service.flow import Flow
from service.flow import current as current_flow
from service.jobs.records import Claim
from service.jobs.request import JobRequest
from service.operations.events import Event, Progress
from service.operations.generate import generate
from service.operations.generate_plan import GeneratePlan
from service.operations.samples import render
from service.settings import Limits
from service.types import Backend, Generated, GenerateJob, GeneratorBackend, GeneratorCard, JobProgress, Media

GRACE_SECONDS = 10.0  # so that the end of a job's time is not taken for a busy replica


def job_limits(limits: Limits) -> Limits:
    """Return the limits of a job: more samples than a request may have, each of the same size."""
    return replace(limits, generated_tokens=limits.job_tokens)


class GenerateWork:
    """The work of jobs that generate.

    Args:
        backend: the tokenizer tier.
        generators: the generators.
        media: the pool of decoders.
        limits: of a request.
        seconds: that one job may take.
    """

    def __init__(
        self, backend: Backend, generators: GeneratorBackend, media: Media, limits: Limits, seconds: float
    ) -> None:
        self._backend, self._generators, self._media = backend, generators, media
        self._limits, self._seconds = job_limits(limits), seconds

    async def __call__(self, claim: Claim, on_done: Callable[[int], None]) -> tuple[str, bytes]:
        """Return the media type and the bytes of the content.

        Args:
            claim: the job.
            on_done: called with the steps done.

        Raises:
            ProblemError, MediaError: what the work raises; `deadline-exceeded` when it takes too long.
        """
        # its caller waits for no answer, and this is a task of its own
        current_flow.set(Flow(f"key {claim.job.owner}" if claim.job.owner else None, "bulk"))
        request = await asyncio.to_thread(JobRequest.unpack, claim.request)  # it may hold a clip

        def accept(plan: GeneratePlan) -> None:
            if plan.generator.hash != request.bundle:  # the seed would make another sample
                raise ProblemError("model-mismatch", "The generator has changed since the job came. Send it again.")

        def on_event(event: Event) -> None:
            if isinstance(event, Progress):
                on_done(event.done)

        try:
            async with asyncio.timeout(self._seconds) as timer:
                generators = _PatientGenerators(self._generators, monotonic() + self._seconds + GRACE_SECONDS)
                made = await generate(
                    self._backend,
                    generators,
                    self._media,
                    request.source,
                    request.options,
                    self._limits,
                    on_event,
                    accept,
                )
                return request.form.media_type, await render(
                    made, self._media, request.form, request.options, claim.job.id
                )
        except TimeoutError as error:
            if not timer.expired():
                raise
            detail = f"The job was not done after {self._seconds:g} s. Ask for less."
            raise ProblemError("job-too-long", detail, self._seconds) from error


class _PatientGenerators:
    """The generators, whose samples may take until a time on the monotonic clock."""

    def __init__(self, generators: GeneratorBackend, until: float) -> None:
        self._generators, self._until = generators, until

    async def generators(self) -> list[GeneratorCard]:
        """Return the generators that run."""
        return await self._generators.generators()

    async def generate(
        self, job: GenerateJob, on_progress: Callable[[JobProgress], None], *, seconds: float | None = None
    ) -> Generated:
        """Make one sample."""
        return await self._generators.generate(job, on_progress, seconds=max(0.0, self._until - monotonic()))
