"""The tokenizers, the generators and the jobs of one process, made from the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.chunks import ChunkInput, ChunkOutput, chunk_positions, chunk_size
from service.errors import ProblemError
from service.jobs.queue import JobQueue
from service.jobs.records import Quotas
from service.jobs.runner import Runner
from service.jobs.sqlite_store import SqliteStore
from service.jobs.store import JobStore
from service.jobs.work import GenerateWork
from service.operations.bundles import find_card
from service.scheduling.batcher import Batch, Batcher
from service.scheduling.executor import BatchExecutor, Failure, Launch, Observer
from service.scheduling.step_executor import StepEngine, StepExecutor, StepObserver, StepRequest
from service.scheduling.stepper import Capacity
from service.settings import Settings
from service.types import (
    Backend,
    Decoded,
    Encoded,
    Generated,
    GenerateJob,
    GeneratorBackend,
    GeneratorCard,
    JobProgress,
    Media,
    Message,
    ModelCard,
    Op,
    Size,
    TokenizerKey,
    Want,
    encode_each,
    size_of,
)

STALL_FACTOR = 3  # deadlines that one batch may take before the engine counts as stuck


class LocalBackend:
    """A backend that queues, batches and runs requests in this process; a `types.Backend`.

    Args:
        cards: the bundles that `launch` knows, the default one first.
        launch: starts a batch, as `Engine.launch` does; called on one thread of its own.
        settings: budgets of batches and of the queue, and the deadline.
        observer: where work is reported.
        codebooks: codes of VQ bundles by the id of the bundle, float32 (codes, channels).
    """

    def __init__(
        self,
        cards: list[ModelCard],
        launch: Launch,
        settings: Settings,
        observer: Observer,
        codebooks: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self._cards = cards
        self._codebooks = codebooks or {}
        self._seconds = settings.request_seconds
        batcher = Batcher(
            settings.max_batch_tokens,
            settings.max_batch_requests,
            settings.max_queue_tokens,
            settings.max_queue_seconds,
        )
        self._executor = BatchExecutor(launch, batcher, observer)

    def check_health(self) -> None:
        """Check that this process can still work.

        Raises:
            RuntimeError: the accelerator is broken, or a batch does not end.
        """
        _check(self._executor.fault, self._executor.busy_seconds, self._seconds)

    def close(self) -> None:
        """Refuse what waits, and start nothing more."""
        self._executor.close()

    async def models(self) -> list[ModelCard]:
        """Return the bundles that are served, the default one first."""
        return self._cards

    async def codebook(self, model: str) -> NDArray[np.float32]:
        """Return the codes (codebook_size, latent_channels) of a VQ bundle."""
        return self._codebooks[find_card(self._cards, model).id]

    async def encode(
        self, model: str, pixels: NDArray[np.uint8], want: Want, *, seconds: float | None = None
    ) -> Encoded:
        """Encode uint8 RGB pixels (T, H, W, 3).

        Args:
            model: id of a bundle.
            pixels: uint8 (T, H, W, 3).
            want: which codes to return; a VAE has latents only.
            seconds: time left, the service's own deadline if None.

        Raises:
            ProblemError: `unknown-model`, and what the executor raises.
        """
        card = find_card(self._cards, model)
        key = TokenizerKey(card.id, "encode", "pixels", size_of(pixels), want)
        (tokens, latents), timing = await self._submit(card, key, pixels, seconds)
        wide = None if tokens is None else tokens.astype(np.int32)
        return Encoded(wide, latents if want != "tokens" else None, timing)

    async def encode_many(
        self, model: str, clips: Sequence[NDArray[np.uint8]], want: Want, *, seconds: float | None = None
    ) -> list[Encoded | ProblemError]:
        """Encode clips of one size; return the outcome of each."""
        return await encode_each(self, model, clips, want, seconds)

    async def decode(self, model: str, codes: NDArray[Any], size: Size, *, seconds: float | None = None) -> Decoded:
        """Decode integer tokens (t, h, w) or float latents (t, h, w, c), cropped to `size` (frames, height, width)."""
        card = find_card(self._cards, model)
        kind: Literal["tokens", "latents"] = "latents" if codes.dtype.kind == "f" else "tokens"
        pixels, timing = await self._submit(card, TokenizerKey(card.id, "decode", kind, size), codes, seconds)
        return Decoded(pixels, timing)

    async def reconstruct(self, model: str, pixels: NDArray[np.uint8], *, seconds: float | None = None) -> Decoded:
        """Encode and decode uint8 RGB pixels (T, H, W, 3) in one visit."""
        card = find_card(self._cards, model)
        key = TokenizerKey(card.id, "reconstruct", "pixels", size_of(pixels))
        reconstruction, timing = await self._submit(card, key, pixels, seconds)
        return Decoded(reconstruction, timing)

    async def encode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        """Encode the next frames of a clip."""
        return await self._submit_chunk(model, "encode_chunk", "pixels", chunk, seconds)

    async def decode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        """Decode the next latent frames of a clip."""
        kind: Literal["tokens", "latents"] = "latents" if chunk.array.dtype.kind == "f" else "tokens"
        return await self._submit_chunk(model, "decode_chunk", kind, chunk, seconds)

    async def _submit_chunk(
        self,
        model: str,
        op: Op,
        kind: Literal["pixels", "tokens", "latents"],
        chunk: ChunkInput,
        seconds: float | None,
    ) -> ChunkOutput:
        card = find_card(self._cards, model)
        key, cost = (
            TokenizerKey(card.id, op, kind, chunk_size(card.geometry, chunk)),
            chunk_positions(card.geometry, chunk),
        )
        answer, timing = await self._executor.submit(key, cost, chunk, self._seconds if seconds is None else seconds)
        return replace(answer, queue_ms=timing.queue_ms, compute_ms=timing.compute_ms)

    def start(self, messages: Sequence[Message]) -> list[Sequence[int] | Exception]:
        """Queue the items of messages; arguments, outcomes and refusals as `BatchExecutor.start`.

        The result of encode is a pair of tokens (uint16 or int32) and latents, either of them None; that of the others
        is pixels.
        """
        return self._executor.start(messages)

    def cancel(self, number: int) -> bool:
        """Take a call out of the queue; False if it runs or is over."""
        return self._executor.cancel(number)

    async def _submit(self, card: ModelCard, key: TokenizerKey, payload: Any, seconds: float | None) -> Any:
        cost = card.geometry.positions(key.size)
        return await self._executor.submit(key, cost, payload, self._seconds if seconds is None else seconds)


class GenerateEngine(StepEngine, Protocol):
    """The engine of `LocalGenerators`."""

    @property
    def cards(self) -> list[GeneratorCard]:
        """Return the generators, the default one first."""

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """Return slots and prefill chunk of each generator."""

    def request(self, job: GenerateJob) -> StepRequest:
        """Return the steps and slots of a job."""


class GenerateObserver(StepObserver, Protocol):
    """The metrics of the generators."""

    def generated(self, kind: str, model: str, codes: int, waited: float) -> None:
        """Count a sample that has been made, of so many latent positions, after it waited so many seconds."""


class LocalGenerators:
    """A backend that queues jobs and advances them step by step in this process, on a thread of their own.

    Args:
        engine: the generators.
        settings: the bound of the queue, and the deadline.
        observer: where work is reported.
    """

    def __init__(self, engine: GenerateEngine, settings: Settings, observer: GenerateObserver) -> None:
        self._engine = engine
        self._cards = {card.id: card for card in engine.cards}
        self._seconds = settings.generate_seconds
        self._turn_seconds = settings.request_seconds
        self._observer = observer
        kinds = {card.id: card.kind for card in engine.cards}
        self._executor = StepExecutor(engine, engine.capacities, kinds, settings.max_queue_samples, observer)

    def check_health(self) -> None:
        """Check that this process can still work.

        Raises:
            RuntimeError: the accelerator is broken, or a step does not end.
        """
        _check(self._executor.fault, self._executor.busy_seconds, self._turn_seconds)

    def close(self) -> None:
        """Refuse what waits and runs."""
        self._executor.close()

    async def generators(self) -> list[GeneratorCard]:
        """Return the generators, with the present time of a step."""
        cards = self._cards.values()
        return [replace(card, step_seconds=self._step_seconds(card) or card.step_seconds) for card in cards]

    def _step_seconds(self, card: GeneratorCard) -> float | None:
        """Return the recent time of a step; where samples of a batch add up, a sample's share in it."""
        in_order = card.computes_in_order
        return self._executor.sample_seconds(card.id) if in_order else self._executor.step_seconds(card.id)

    async def generate(
        self, job: GenerateJob, on_progress: Callable[[JobProgress], None], *, seconds: float | None = None
    ) -> Generated:
        """Make one sample.

        Args:
            job: the sample.
            on_progress: called with the newest state.
            seconds: time left, the service's own deadline if None.

        Raises:
            ProblemError: what the executor raises.
        """
        request, left = self._engine.request(job), self._seconds if seconds is None else seconds
        codes, timing = await self._executor.submit(request, on_progress, left)
        card = self._cards[job.model]
        positions = codes.shape[0] * codes.shape[1] * codes.shape[2]
        self._observer.generated(card.kind, card.id, positions, timing.queue_ms / 1000)
        return Generated(codes, None, timing) if card.kind == "lm" else Generated(None, codes, timing)


class Unobserved:
    """An observer of batches and steps that counts nothing, where nobody reads metrics."""

    def queue(self, requests: int, tokens: int, oldest: float | None) -> None:
        """Ignore the length of the queue."""

    def batch(self, batch: Batch, seconds: float, waits: Sequence[float]) -> None:
        """Ignore a batch."""

    def split(self, batch: Batch, failure: Failure) -> None:
        """Ignore a batch that ran in parts."""

    def done(self, op: Op, frames: int, tokens: int, model: str, requests: int) -> None:
        """Ignore results."""

    def generating(self, waiting: int, slots: int, oldest: float | None, positions: int) -> None:
        """Ignore the state of generators."""

    def stepped(self, kind: str, steps: int, seconds: float) -> None:
        """Ignore steps."""

    def generated(self, kind: str, model: str, codes: int, waited: float) -> None:
        """Ignore a sample."""


def _check(fault: Exception | None, busy_seconds: float, seconds: float) -> None:
    if fault is not None:
        raise RuntimeError("The accelerator is unusable; a new replica must replace this one.") from fault
    if busy_seconds > STALL_FACTOR * seconds:
        raise RuntimeError(f"A batch or a step has been running for {busy_seconds:.0f} s.")


def job_store(settings: Settings, folder: Path) -> JobStore:
    """Return the jobs in Redis where a setting names one, else in a folder, which one process owns at a time.

    Raises:
        OSError, sqlite3.Error: Redis or the folder cannot be used.
    """
    quotas = Quotas(
        settings.max_jobs,
        settings.job_bytes,
        settings.job_age_seconds,
        settings.max_caller_jobs,
        settings.job_lease_seconds,
        settings.job_tries,
    )
    if settings.jobs_redis is None:
        return SqliteStore(folder, quotas)
    from service.jobs.redis_store import RedisStore  # of an extra

    return RedisStore(settings.jobs_redis.get_secret_value(), quotas)


def job_runner(
    queue: JobQueue, backend: Backend, generators: GeneratorBackend, media: Media, settings: Settings
) -> Runner:
    """Return the workers of this process, which do jobs with its view of the tiers."""
    work = GenerateWork(backend, generators, media, settings.limits, settings.job_seconds)
    return Runner(queue, work, settings.job_slots, settings.job_lease_seconds)
