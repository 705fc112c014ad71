"""The two tiers on Ray Serve: ingress replicas that speak HTTP, tokenizer replicas that hold the weights."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.serve.handle import DeploymentHandle

from service.allocator import keep_freed_blocks
from service.api import log
from service.api.app import create_app
from service.api.drain import Gate
from service.api.shedding import log_shed
from service.chunks import ChunkOutput
from service.cluster.autoscaling import LoadMeter
from service.cluster.chunk_memory import (
    NotHereError,
    PlacedOutput,
    check_state,
    load,
    store,
)
from service.cluster.generators import GeneratorHost, RayGeneratorBackend
from service.cluster.jobs import RayJobQueue
from service.cluster.keyed_answers import RayKeyedAnswers
from service.cluster.node_metrics import join_node, link_directory
from service.cluster.ray_backend import HandleCall, RayBackend
from service.cluster.refusals import answer_of
from service.cluster.start_log import StartLog
from service.failures import LoopFailures
from service.flow import current as current_flow
from service.in_process import LocalBackend, job_runner
from service.jobs.runner import Runner
from service.link.client import LinkClient
from service.link.server import LinkServer
from service.metrics.http import IngressMetrics
from service.metrics.tokenizer import KernelMetrics, TokenizerMetrics
from service.sandbox.pool import MediaPool
from service.scheduling.executor import DeviceFault
from service.settings import Settings
from service.types import ModelCard

if TYPE_CHECKING:
    from service.tracing import SpanExporter

REPORT_SECONDS = 0.5  # the pool and the link keep their own counts, which cost nothing


class Tokenizer:
    """One tokenizer replica. Refusals are returned, not raised: Ray would log each as a failure of the replica."""

    def __init__(self, settings: Settings) -> None:
        start, node = StartLog(), join_node(settings, "Tokenizer")
        log.configure(settings.log, node.replica or None)
        from service.engine.late_kernels import LateKernels  # only replicas with networks pay for torch
        from service.engine.tokenizer import Engine

        start.reached("libraries")
        self._late_kernels, self._kernel_metrics = LateKernels(), KernelMetrics()
        engine = Engine(settings.bundles, settings.device, settings.dtype, settings.torch_threads)
        start.reached("bundles", models=[card.id for card in engine.cards])
        engine.warm_up(settings.warm_sizes, settings.max_batch_tokens, settings.max_batch_requests, start.reached)
        self._load = LoadMeter()
        models = [card.id for card in engine.cards]
        self._metrics = TokenizerMetrics(node.replica, models, settings.max_queue_tokens, self._load.ran)
        self._backend = LocalBackend(engine.cards, engine.launch, settings, self._metrics, engine.codebooks)
        self._max_state_bytes = settings.limits.stream_state_bytes
        self._link: LinkServer | None = None
        self._host: GeneratorHost | None = None
        if settings.generators and not settings.generator_replicas:
            self._host = GeneratorHost(settings, node.replica)
            self.generators, self.generate = self._host.generators, self._host.generate
            start.reached("generators")
        self._late_kernels.mark_ready()
        node.ready()
        start.reached("replica")

    async def models(self) -> list[ModelCard]:
        """Return the bundles that this replica serves."""
        return await self._backend.models()

    async def codebook(self, model: str) -> Any:
        """Return the codes of a VQ bundle, or a refusal."""
        return await answer_of(self._backend.codebook(model), "tokenizer", None)

    async def run(self, op: str, calls: Sequence[HandleCall]) -> list[Any]:
        """Return what a method of `LocalBackend` answers to each call, or its own refusal."""
        method = getattr(self._backend, op)

        async def work(call: HandleCall) -> Any:
            done = await method(*call.arguments, seconds=call.seconds)
            if isinstance(done, ChunkOutput):
                check_state(done.state, self._max_state_bytes)  # gRPC would fail on a larger message
            return done

        async def answer(call: HandleCall) -> Any:
            current_flow.set(call.flow)
            return await answer_of(work(call), "tokenizer", call.trace)

        return await asyncio.gather(*(asyncio.create_task(answer(call)) for call in calls))

    async def run_in_place(self, op: str, call: HandleCall) -> Any:
        """Do a chunk whose arrays are in the memory of this node: return a `PlacedOutput`, or a refusal.

        Returns:
            None if they are in that of another node.
        """
        current_flow.set(call.flow)
        model, chunk = call.arguments

        async def work() -> PlacedOutput | None:
            try:
                done = await getattr(self._backend, op)(model, load(chunk), seconds=call.seconds)
                return await asyncio.to_thread(store, chunk.out, done, self._max_state_bytes)
            except NotHereError:
                return None

        return await answer_of(work(), "tokenizer", call.trace)

    async def check_health(self) -> None:
        """Raise when the accelerator is broken or a batch does not end: Ray then replaces this replica."""
        if self._link is None and (directory := link_directory()) is not None:  # Ray asks first when it has started
            self._directory = directory
            self._link = LinkServer(directory.path, self._backend, await self.models(), DeviceFault)
            await self._link.start()
        self._kernel_metrics.late(self._late_kernels.count)
        self._backend.check_health()
        if self._host is not None:
            self._host.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the load of this replica; Ray asks where replicas may be added."""
        return self._load.read(self._metrics.queued_tokens)

    async def __del__(self) -> None:
        """Answer what came over the link, which Ray Serve does not count, and stop; it calls this at the end."""
        if self._link is not None:
            await self._link.leave()
            self._link.close()
            self._directory.close()
        self._backend.close()
        if self._host is not None:
            self._host.close()


class Ingress:
    """One ingress replica: HTTP, media decoding and rendering."""

    def __init__(
        self,
        tokenizer: DeploymentHandle,
        settings: Settings,
        generators: DeploymentHandle | None = None,
        folder: Path | None = None,
        jobs: DeploymentHandle | None = None,
    ) -> None:
        keep_freed_blocks()
        self._settings = settings
        self._folder = folder
        self._node = join_node(settings, "Ingress")
        self._metrics = IngressMetrics(self._node.replica)
        self._media = MediaPool(
            settings.limits,
            settings.media_workers,
            settings.allow_weak_sandbox,
            max_queue_seconds=settings.max_queue_seconds,
        )
        self._tokenizer = tokenizer
        self._link: LinkClient | None = None
        self._generators = None if generators is None else RayGeneratorBackend(generators, settings, self._metrics)
        self._jobs = None if jobs is None else RayJobQueue(jobs, settings, self._metrics)
        self._runner: Runner | None = None
        self._exporter: SpanExporter | None = None

    async def __serve_build_asgi_app__(self) -> Any:
        """Return the application that Ray Serve serves from this replica."""
        await self._media.start()
        if (directory := link_directory()) is not None:
            self._directory, settings = directory, self._settings
            self._link = LinkClient(directory.path, settings.held_body_bytes, settings.tries, self._metrics.retried)
        self._backend = RayBackend(self._tokenizer, self._settings, self._metrics, self._link)
        if self._jobs is not None and self._generators is not None:
            self._runner = job_runner(self._jobs, self._backend, self._generators, self._media, self._settings)
            self._runner.start()
        tiers = (self._backend, self._media, self._settings, self._metrics, self._generators)
        replica = self._node.replica or None
        if (endpoint := self._settings.otlp_endpoint) is not None:
            from service.tracing import otlp_exporter  # of an extra

            self._exporter = otlp_exporter(endpoint, replica)
        app = create_app(*tiers, replica, self._jobs, RayKeyedAnswers(self._settings), self._exporter)
        self._replays = app.state.services.replays
        self._reporter = asyncio.create_task(self._report())
        self._gate = Gate(app, self._folder, self._settings.drain_notice_seconds)
        self._gate.start()
        self._node.ready()
        return self._gate

    async def __del__(self) -> None:
        """Stop what runs; Ray Serve calls this when the replica has drained."""
        self._gate.stop()
        self._reporter.cancel()
        self._report_once()
        if self._runner is not None:
            await self._runner.stop()
        if self._link is not None:
            await self._link.close()
            self._directory.close()
        await self._media.stop()
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.close)
        log_shed()
        log.flush()

    async def _report(self) -> None:
        failures = LoopFailures("the report of an ingress replica's metrics")
        while True:
            with failures.logged():
                self._report_once()
            await asyncio.sleep(REPORT_SECONDS)

    def _report_once(self) -> None:
        self._metrics.media(self._media.results, self._media.restarts)
        self._metrics.replayed(self._replays.results)
        self._metrics.state(**self._media.load(), router_waiting=self._backend.waiting)
        if self._link is not None:
            self._metrics.state(**self._link.load())
