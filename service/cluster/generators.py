"""Generators on Ray Serve: replicas of their own or inside the tokenizer's, and the way to them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

from service.api import log
from service.cluster.node_metrics import join_node
from service.cluster.refusals import answer_of
from service.cluster.remote import Remote, traceparent
from service.cluster.start_log import StartLog
from service.engine.lane import LaneOptions
from service.errors import ProblemError
from service.in_process import LocalGenerators
from service.metrics.generator import GeneratorMetrics
from service.metrics.tokenizer import KernelMetrics
from service.scheduling.mailbox import Mailbox
from service.settings import Settings
from service.types import Generated, GenerateJob, GeneratorCard, JobProgress


class GeneratorHost:
    """The generators of one replica. Refusals are returned, not raised: Ray would log each as a failure.

    Args:
        settings: bundles, slots and precision.
        replica: the name of the process.
    """

    def __init__(self, settings: Settings, replica: str) -> None:
        from service.engine.generator import GeneratorEngine  # only replicas with networks pay for torch

        options = LaneOptions(
            settings.generator_slots,
            settings.prefill_tokens,
            settings.generator_dtype,
            settings.generator_fp8_cache,
            settings.generator_int8_weights,
        )
        engine = GeneratorEngine.load(
            settings.generators, settings.device, settings.torch_threads, options, settings.bundles
        )
        held = {name: capacity.held for name, capacity in engine.capacities.items()}
        cache = sum(held[card.id] * math.prod(card.grid) for card in engine.cards if card.kind == "lm")
        models = {card.id: card.kind for card in engine.cards}
        self._metrics = GeneratorMetrics(replica, models, sum(held.values()), cache)
        self._generators = LocalGenerators(engine, settings, self._metrics)

    async def generators(self) -> list[GeneratorCard]:
        """Return the generators of this replica."""
        return await self._generators.generators()

    async def generate(
        self, job: GenerateJob, seconds: float | None = None, trace: str | None = None
    ) -> AsyncIterator[JobProgress | Generated | ProblemError]:
        """Yield the newest progress whenever its reader asks, then the sample or the refusal."""
        mailbox: Mailbox[JobProgress] = Mailbox()
        work = asyncio.ensure_future(self._generators.generate(job, mailbox.put, seconds=seconds))
        news = asyncio.ensure_future(mailbox.get())
        try:
            while not work.done():
                await asyncio.wait((work, news), return_when=asyncio.FIRST_COMPLETED)
                if news.done():
                    yield news.result()
                    news = asyncio.ensure_future(mailbox.get())
            yield await answer_of(work, "generator", trace)
        finally:
            news.cancel()
            work.cancel()

    def check_health(self) -> None:
        """Raise when the accelerator is broken or a step does not end."""
        self._generators.check_health()

    def close(self) -> None:
        """Stop what runs."""
        self._generators.close()


class Generator:
    """One replica with generators alone."""

    def __init__(self, settings: Settings) -> None:
        start, node = StartLog(), join_node(settings, "Generator")
        log.configure(settings.log, node.replica or None)
        from service.engine.late_kernels import LateKernels

        start.reached("libraries")
        self._late_kernels, self._kernel_metrics = LateKernels(), KernelMetrics()
        self._host = GeneratorHost(settings, node.replica)
        start.reached("generators")
        self._late_kernels.mark_ready()
        self.generators = self._host.generators
        self.generate = self._host.generate
        node.ready()
        start.reached("replica")

    async def check_health(self) -> None:
        """Raise when the accelerator is broken or a step does not end: Ray then replaces this replica."""
        self._kernel_metrics.late(self._late_kernels.count)
        self._host.check_health()

    def __del__(self) -> None:
        """Stop what runs; Ray Serve calls this when the replica has drained."""
        self._host.close()


class RayGeneratorBackend(Remote):
    """The generators behind a deployment handle; a `types.GeneratorBackend`."""

    async def generators(self) -> list[GeneratorCard]:
        """Return the generators, the default one first; a living replica named them in the last few seconds."""
        return await self._remembered_cards("generators")

    async def generate(
        self, job: GenerateJob, on_progress: Callable[[JobProgress], None], *, seconds: float | None = None
    ) -> Generated:
        """Make one sample. A replica that is lost costs the steps done so far, and changes no token."""

        async def attempt(deadline: float) -> Any:
            left = deadline - asyncio.get_running_loop().time()
            stream: Any = self._handle.options(stream=True).generate.remote(job, left, traceparent())
            try:
                async for news in stream:
                    if not isinstance(news, JobProgress):
                        return news
                    on_progress(news)
            except asyncio.CancelledError:  # the deadline's doing, or the caller's
                stream.cancel()
                raise
            return ProblemError("internal", "The generator ended without an answer.")

        answer: Generated = await self._retry(attempt, self._settings.generate_seconds if seconds is None else seconds)
        return answer
