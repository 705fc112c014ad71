"""The tiers as one request uses them: every call ends by its deadline and is charged to its caller."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from media.types import Frames, MediaOptions
from model.geometry import Geometry
from service.api.deadline import Deadline
from service.chunks import ChunkInput, ChunkOutput, FrameStream, chunk_positions, chunk_size
from service.errors import ProblemError
from service.flow import PRIORITIES, Flow
from service.keys import Budget
from service.operations.bundles import find_card
from service.sandbox.pool import MediaPool
from service.trace import note_batch, note_stage
from service.types import (
    Backend,
    Decoded,
    Encoded,
    Generated,
    GenerateJob,
    GeneratorBackend,
    GeneratorCard,
    JobProgress,
    ModelCard,
    Size,
    Timing,
    Want,
    size_of,
)

PRIORITY_HEADER = "X-Request-Priority"
GROUP_HEADER, GROUP_CHARACTERS = "X-Caller-Group", 2  # a number of `haproxy-start`; without HAProxy callers may send it

RETRY_SECONDS = 0.5  # of a refusal that names no time
NOT_BEGUN = frozenset({"overloaded", "draining", "not-ready"})  # refusals of work that nobody has done

Done = TypeVar("Done", Encoded, Decoded)


class CallerBackend:
    """A `Backend` for one request.

    Args:
        backend: the tokenizer tier.
        deadline: of the request.
        budget: of its caller, or None.
        notes: takes frames and latent positions for the log.

    Attributes:
        counts_frames: whether to note the frames that pass; those of a generation are not all its own.
    """

    counts_frames = True

    def __init__(self, backend: Backend, deadline: Deadline, budget: Budget | None, notes: dict[str, Any]) -> None:
        self._backend, self._deadline, self._budget, self._notes = backend, deadline, budget, notes
        self._cards: list[ModelCard] = []

    async def models(self) -> list[ModelCard]:
        """Return the bundles that are served."""
        self._cards = await self._backend.models()
        return self._cards

    async def codebook(self, model: str) -> NDArray[np.float32]:
        """Return the codes of a VQ bundle."""
        return await self._backend.codebook(model)

    async def encode(
        self, model: str, pixels: NDArray[np.uint8], want: Want, *, seconds: float | None = None
    ) -> Encoded:
        """Encode uint8 RGB pixels (T, H, W, 3)."""
        cost = await self._cost(model, size_of(pixels))
        return await self._run(model, cost, self._backend.encode(model, pixels, want, seconds=self._left(seconds)))

    async def encode_many(
        self, model: str, clips: Sequence[NDArray[np.uint8]], want: Want, *, seconds: float | None = None
    ) -> Sequence[Encoded | ProblemError]:
        """Encode clips of one size; return the outcome of each."""
        cost, begun = await self._cost(model, size_of(clips[0]), len(clips)), time.perf_counter()
        with _charged(self._budget, cost):
            outcomes = await self._backend.encode_many(model, clips, want, seconds=self._left(seconds))
        for timing in {outcome.timing for outcome in outcomes if isinstance(outcome, Encoded)}:  # one a batch
            _note_batch(begun, model, timing)
        refused = sum(isinstance(outcome, ProblemError) and outcome.code in NOT_BEGUN for outcome in outcomes)
        if self._budget is not None:
            self._budget.left += cost * refused // len(clips)
        return outcomes

    async def decode(self, model: str, codes: NDArray[Any], size: Size, *, seconds: float | None = None) -> Decoded:
        """Decode tokens (t, h, w) or latents (t, h, w, c)."""
        cost = await self._cost(model, size)
        return await self._run(model, cost, self._backend.decode(model, codes, size, seconds=self._left(seconds)))

    async def reconstruct(self, model: str, pixels: NDArray[np.uint8], *, seconds: float | None = None) -> Decoded:
        """Encode and decode uint8 RGB pixels (T, H, W, 3)."""
        cost = await self._cost(model, size_of(pixels))
        return await self._run(model, cost, self._backend.reconstruct(model, pixels, seconds=self._left(seconds)))

    async def encode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        """Encode the next frames of a clip, once its caller's budget allows it."""
        with _charged(self._budget, await self._chunk_cost(model, chunk)):
            return await self._patiently(lambda left: self._backend.encode_chunk(model, chunk, seconds=left), seconds)

    async def decode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        """Decode the next latent frames of a clip, once its caller's budget allows it."""
        with _charged(self._budget, await self._chunk_cost(model, chunk)):
            return await self._patiently(lambda left: self._backend.decode_chunk(model, chunk, seconds=left), seconds)

    async def _run(self, model: str, cost: int, call: Awaitable[Done]) -> Done:
        begun = time.perf_counter()
        with _charged(self._budget, cost):
            done = await call
        _note_batch(begun, model, done.timing)
        return done

    async def _patiently(self, call: Callable[[float], Awaitable[ChunkOutput]], seconds: float | None) -> ChunkOutput:
        """Let a chunk that a full queue refuses come again: others go first, and what was done of its clip is kept."""
        clock = time.monotonic
        deadline = clock() + self._left(seconds)
        while True:
            try:
                begun = time.perf_counter()
                done = await call(deadline - clock())
                note_batch(begun, done.queue_ms, done.compute_ms)
                for name, spent in (("queue_ms", done.queue_ms), ("compute_ms", done.compute_ms)):
                    self._notes[name] = round(self._notes.get(name, 0.0) + spent, 2)
                return done
            except ProblemError as problem:
                pause = problem.retry_after_seconds or RETRY_SECONDS
                if problem.code != "overloaded" or clock() + pause > deadline:
                    raise
            await asyncio.sleep(pause)

    async def _chunk_cost(self, model: str, chunk: ChunkInput) -> int:
        """Return the cost of a chunk once the budget is not used up."""
        geometry = await self._geometry(model)
        positions = chunk_positions(geometry, chunk)
        self._note(chunk_size(geometry, chunk)[0], positions)
        if self._budget is not None:
            self._budget.refill(time.monotonic())  # nobody else may have asked for it while the last chunk ran
            while self._budget.left <= 0:
                await asyncio.sleep(self._budget.seconds_until(1.0))
                self._budget.refill(time.monotonic())
        return positions

    async def _cost(self, model: str, size: Size, count: int = 1) -> int:
        positions = count * (await self._geometry(model)).positions(size)
        self._note(count * size[0], positions)
        return positions

    async def _geometry(self, model: str) -> Geometry:
        """Return the geometry of a bundle of this request, which is known even while no replica can be asked."""
        return find_card(self._cards or await self.models(), model).geometry

    def _note(self, frames: int, positions: int) -> None:
        if self.counts_frames:
            _add(self._notes, "frames", frames)
        _add(self._notes, "positions", positions)

    def _left(self, seconds: float | None) -> float:
        left = self._deadline.left()
        return left if seconds is None else min(left, seconds)


class CallerMedia:
    """The media workers for one request.

    Args:
        media: all of them.
        caller: who gets the share of the workers.
    """

    def __init__(self, media: MediaPool, caller: str) -> None:
        self._media, self._caller = media, caller

    async def decode(self, data: bytes, declared: str | None, options: MediaOptions) -> Frames:
        """Decode a picture or a clip."""
        begun = time.perf_counter()
        frames = await self._media.decode(data, declared, options, self._caller)
        note_stage("media", begun, bytes=len(data))
        return frames

    def stream(
        self, pieces: AsyncIterator[bytes], declared: str | None, options: MediaOptions
    ) -> AbstractAsyncContextManager[FrameStream]:
        """Decode a clip while it arrives."""
        return self._media.stream(pieces, declared, options, self._caller)

    async def encode(self, pixels: NDArray[np.uint8], media_type: str, fps: float, quality: int | None = None) -> bytes:
        """Compress pixels."""
        return await self._media.encode(pixels, media_type, fps, quality, self._caller)


def owner_of(request: Request) -> str:
    """Return the name of the caller's key, "" where there are no keys."""
    name: str | None = getattr(request.state, "caller", None)
    return name or ""


def caller_of(request: Request) -> str:
    """Return who sent a request: the name of its key, or else its connection, which a proxy's own may be."""
    if name := owner_of(request):
        return f"key {name}"
    return "" if request.client is None else f"{request.client.host}:{request.client.port}"


def group_of(request: Request) -> str:
    """Return whose requests pause together after a refusal: those of a key, or else of a group of addresses."""
    group = request.headers.get(GROUP_HEADER, "")
    return owner_of(request) or group[:GROUP_CHARACTERS]


def flow_of(request: Request) -> Flow:
    """Return whose share a request takes, and how urgent its header says that it is.

    Raises:
        ProblemError: `bad-header`.
    """
    given = request.headers.getlist(PRIORITY_HEADER)
    if not given:
        return Flow(caller_of(request))
    for priority in PRIORITIES:
        if given == [priority]:
            return Flow(caller_of(request), priority)
    raise ProblemError("bad-header", f"{PRIORITY_HEADER} must be one of {', '.join(PRIORITIES)}.")


class CallerGenerators:
    """A `GeneratorBackend` for one request; the arguments are those of `CallerBackend`."""

    def __init__(
        self, generators: GeneratorBackend, deadline: Deadline, budget: Budget | None, notes: dict[str, Any]
    ) -> None:
        self._generators, self._deadline, self._budget, self._notes = generators, deadline, budget, notes

    async def generators(self) -> list[GeneratorCard]:
        """Return the generators that run."""
        return await self._generators.generators()

    async def generate(
        self, job: GenerateJob, on_progress: Callable[[JobProgress], None], *, seconds: float | None = None
    ) -> Generated:
        """Make one sample."""
        card = next(card for card in await self._generators.generators() if card.id == job.model)
        positions = job.frames * math.prod(card.grid[1:])
        _add(self._notes, "positions", positions)
        left = self._deadline.left() if seconds is None else min(seconds, self._deadline.left())
        begun = time.perf_counter()
        with _charged(self._budget, positions):
            made = await self._generators.generate(job, on_progress, seconds=left)
        _note_batch(begun, job.model, made.timing)
        for name, spent in (("queue_ms", made.timing.queue_ms), ("compute_ms", made.timing.compute_ms)):
            self._notes[name] = max(self._notes.get(name, 0.0), round(spent, 2))  # samples wait and compute together
        return made


@contextmanager
def _charged(budget: Budget | None, positions: int) -> Iterator[None]:
    """Charge work, and give the charge back where the work is refused."""
    if budget is not None:
        budget.left -= positions
    try:
        yield
    except ProblemError as problem:
        if budget is not None and problem.code in NOT_BEGUN:
            budget.left += positions
        raise


def _note_batch(begun: float, model: str, timing: Timing) -> None:
    note_batch(begun, timing.queue_ms, timing.compute_ms, model=model, size=timing.batch_size)


def _add(notes: dict[str, Any], name: str, amount: int) -> None:
    notes[name] = notes.get(name, 0) + amount
