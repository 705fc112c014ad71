"""Generate: new pictures and clips by class, the continuation of a clip, clips beyond the trained length."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import ProblemError
from service.formats.result import EncodeResult
from service.operations.clip import ClipSource
from service.operations.concurrency import gather_or_cancel
from service.operations.decode import plan_decode
from service.operations.events import Accepted, Generation, OnEvent, Preview, Progress, Sample, Started
from service.operations.generate_plan import GeneratePlan, Window, check_seconds, plan_generate, shortened
from service.operations.generators import served
from service.operations.options import DecodeOptions
from service.operations.options_generate import MAX_SAMPLES, GenerateOptions
from service.settings import Limits
from service.types import (
    Backend,
    Generated,
    GenerateJob,
    GeneratorBackend,
    GeneratorCard,
    JobProgress,
    Media,
    ModelCard,
    Timing,
)

GREY = 128


@dataclass(frozen=True)
class _Prefix:
    """The beginning of every sample: tokens int32 (t, h, w), their rate, and the time to decode their media."""

    tokens: NDArray[np.int32] | None = None
    fps: float | None = None
    decode_ms: float = 0.0


async def generate(
    backend: Backend,
    generators: GeneratorBackend,
    media: Media,
    source: ClipSource | EncodeResult | None,
    options: GenerateOptions,
    limits: Limits,
    on_event: OnEvent | None = None,
    accept: Callable[[GeneratePlan], None] = lambda plan: None,
    seconds: float | None = None,
) -> Generation:
    """Make samples. Cancelling the caller frees what they hold within two steps.

    Args:
        backend: the tokenizer tier, which encodes the prefix and decodes the samples.
        generators: the generators.
        media: the pool of decoders.
        source: frames to continue: a picture, a clip, an array, or tokens; None for none.
        options: as the caller gave them.
        limits: of one request.
        on_event: called on the event loop with what happens; None where nobody watches.
        accept: called with the plan before anything is computed; it may raise.
        seconds: time that the answer may take; None for any.

    Raises:
        ProblemError: for anything wrong with the options or the prefix, `use-async` for work that takes longer than
            `seconds`, and what the tiers raise.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    plan = await planned(backend, generators, source, options, limits)
    if seconds is not None:
        check_seconds(plan, seconds)
    accept(plan)
    prefix, plan = await _prefix(backend, media, source, options, plan)
    run = _Run(backend, generators, plan, options, on_event, deadline)
    made = await gather_or_cancel([run.sample(index, prefix.tokens) for index in range(plan.samples)])
    return Generation(
        plan.generator,
        plan.card,
        plan.class_id,
        plan.seed,
        plan.params,
        plan.size,
        plan.fps or prefix.fps or plan.rate,
        plan.prefix_frames,
        tuple(sample for sample, _ in made),
        max((timing for _, timing in made), key=lambda timing: timing.queue_ms + timing.compute_ms),
        prefix.decode_ms,
    )


async def planned(
    backend: Backend,
    generators: GeneratorBackend,
    source: ClipSource | EncodeResult | None,
    options: GenerateOptions,
    limits: Limits,
) -> GeneratePlan:
    """Return the plan of a generation; the arguments are those of `generate`, and so are the errors."""
    cards, generator_cards = await served(backend, generators)
    return plan_source(cards, generator_cards, source, options, limits)


def plan_source(
    cards: Sequence[ModelCard],
    generators: Sequence[GeneratorCard],
    source: ClipSource | EncodeResult | None,
    options: GenerateOptions,
    limits: Limits,
) -> GeneratePlan:
    """Return the plan of a generation by these bundles.

    Raises:
        ProblemError: what `plan_generate` raises, and tokens that cannot be continued.
    """
    plan = plan_generate(cards, generators, options, limits, source is not None, _source_frames(source))
    return _of_tokens(source, options, plan)[1] if isinstance(source, EncodeResult) else plan


def _source_frames(source: ClipSource | EncodeResult | None) -> int | None:
    """Return the frames of a source, None if a file must be read to know them."""
    if isinstance(source, ClipSource):
        return None if source.array is None else len(source.array)
    return None if source is None or source.meta.size is None else source.meta.size.frames


async def _prefix(
    backend: Backend,
    media: Media,
    source: ClipSource | EncodeResult | None,
    options: GenerateOptions,
    plan: GeneratePlan,
) -> tuple[_Prefix, GeneratePlan]:
    """Return the tokens that every sample begins with, and the plan for as many frames as there are."""
    if source is None:
        return _Prefix(), plan
    if isinstance(source, EncodeResult):
        return _of_tokens(source, options, plan)
    _, height, width = plan.size
    in_file = source.media is not None
    request = options.prefix_request(height, width, plan.prefix_frames) if in_file else options.array_request()
    clip = await source.read(media, request)
    _check_extents(plan, clip.info.size)
    plan = shortened(plan, len(clip.pixels), options.prefix_frames is not None)
    encoded = await backend.encode(plan.card.id, clip.pixels[: plan.prefix_frames], "tokens")
    return _Prefix(encoded.tokens, clip.info.fps, clip.decode_ms), plan


def _of_tokens(source: EncodeResult, options: GenerateOptions, plan: GeneratePlan) -> tuple[_Prefix, GeneratePlan]:
    """Return the tokens that every sample begins with, and the plan for as many frames as they are."""
    decode = plan_decode([plan.card], source, DecodeOptions())
    plan = shortened(plan, decode.size[0], options.prefix_frames is not None)
    if decode.codes.dtype.kind == "f":
        raise ProblemError("invalid-tensor", f"The generator {plan.generator.id} continues tokens, not latents.")
    _check_extents(plan, plan.card.geometry.size(decode.codes.shape))
    return _Prefix(decode.codes[: plan.windows[0].context], source.meta.fps), plan


def _check_extents(plan: GeneratePlan, size: Sequence[int]) -> None:
    if tuple(size[1:]) != plan.size[1:]:
        has, needs = (f"{height}x{width}" for height, width in (size[1:], plan.size[1:]))
        detail = f"The prefix has {has} pixels, and {plan.generator.id} makes {needs}. Encode it at that size."
        raise ProblemError("bad-grid", detail)


class _Run:
    """The samples of one request under way, and the events of them."""

    def __init__(
        self,
        backend: Backend,
        generators: GeneratorBackend,
        plan: GeneratePlan,
        options: GenerateOptions,
        on_event: OnEvent | None,
        deadline: float | None,
    ) -> None:
        self._backend = backend
        self._generators = generators
        self._plan = plan
        self._options = options
        self._emit: OnEvent = on_event or (lambda event: None)
        self._watched = on_event is not None
        self._deadline = deadline
        self._done = [0] * plan.samples  # steps of each sample
        self._accepted = self._started = False
        self._previews: list[asyncio.Task[None] | None] = [None] * plan.samples
        self._previewed = [0] * plan.samples  # codes of the last preview

    async def sample(self, index: int, prompt: NDArray[np.int32] | None) -> tuple[Sample, Timing]:
        """Make one sample, window after window."""
        try:
            return await self._sample(index, prompt)
        finally:
            if (task := self._previews[index]) is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _sample(self, index: int, prompt: NDArray[np.int32] | None) -> tuple[Sample, Timing]:
        plan = self._plan
        frames: NDArray[np.uint8] | None = None
        finished, queue_ms, compute_ms, company = 0, 0.0, 0.0, 1
        for number, window in enumerate(plan.windows):
            if frames is not None:
                prompt = await self._context(frames, window)
            made = await self._window(index, number, window, prompt, finished)
            finished += plan.steps(window)
            queue_ms += made.timing.queue_ms
            compute_ms += made.timing.compute_ms
            company = made.timing.batch_size
            if self._options.output != "tokens" or len(plan.windows) > 1:
                pixels = await self._decode(made)
                given = 0 if frames is None else plan.card.geometry.size((window.context, 1, 1))[0]
                frames = pixels if frames is None else np.concatenate([frames, pixels[given:]])
        return await self._finished(made, frames), Timing(queue_ms, compute_ms, company)

    async def _window(
        self, index: int, number: int, window: Window, prompt: NDArray[np.int32] | None, finished: int
    ) -> Generated:
        plan = self._plan
        job = GenerateJob(
            plan.generator.id,
            plan.class_id,
            window.frames,
            plan.params,
            plan.seed,
            index + number * MAX_SAMPLES,  # each window draws numbers of its own
            prompt,
            self._watched,
            self._watched and self._options.preview,
        )

        def on_progress(progress: JobProgress) -> None:
            self._report(index, progress, finished, number == 0)

        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        made = await self._generators.generate(job, on_progress, seconds=left)
        on_progress(JobProgress(plan.steps(window), plan.steps(window)))
        return made

    async def _decode(self, made: Generated) -> NDArray[np.uint8]:
        codes = made.latents if made.tokens is None else made.tokens
        assert codes is not None
        t, h, w = codes.shape[:3]
        decoded = await self._backend.decode(self._plan.card.id, codes, self._plan.card.geometry.size((t, h, w)))
        return decoded.pixels

    async def _context(self, frames: NDArray[np.uint8], window: Window) -> NDArray[np.int32]:
        """Return the tokens of the last frames, encoded as a clip of their own (section 4.5)."""
        count = self._plan.card.geometry.size((window.context, 1, 1))[0]
        encoded = await self._backend.encode(self._plan.card.id, frames[-count:], "tokens")
        assert encoded.tokens is not None
        return encoded.tokens

    async def _finished(self, made: Generated, frames: NDArray[np.uint8] | None) -> Sample:
        """Return the sample in the forms that were asked for; tokens of several windows are those of their pixels."""
        output, tokens = self._options.output, made.tokens
        pixels = None if frames is None else frames[: self._plan.size[0]]
        if output != "pixels" and len(self._plan.windows) > 1:
            assert pixels is not None
            tokens = (await self._backend.encode(self._plan.card.id, pixels, "tokens")).tokens
        codes = (None, None) if output == "pixels" else (tokens, made.latents)
        return Sample(pixels if output != "tokens" else None, *codes)

    def _report(self, index: int, progress: JobProgress, finished: int, first_window: bool) -> None:
        if not self._accepted:
            self._accepted = True
            self._emit(Accepted(progress.position or 0, self._plan.seconds, self._plan.total))
        if progress.position is None and not self._started:
            self._started = True
            self._emit(Started())
        done = finished + progress.done
        if done > self._done[index]:
            self._done[index] = done
            self._emit(Progress(sum(self._done), self._plan.total))
        if progress.codes is not None and first_window:
            self._preview(index, progress.codes)

    def _preview(self, index: int, codes: NDArray[np.int32]) -> None:
        """Decode what is known of a sample, unless its last preview is still on its way or shows as much."""
        width = self._plan.generator.grid[2]
        task = self._previews[index]
        if len(codes) // width == self._previewed[index] // width or (task is not None and not task.done()):
            return
        self._previewed[index] = len(codes)
        self._previews[index] = asyncio.create_task(self._show(index, codes))

    async def _show(self, index: int, codes: NDArray[np.int32]) -> None:
        _, height, width = self._plan.generator.grid
        card = self._plan.card
        frames, rows = divmod(len(codes) // width, height)
        known = codes[: frames * height * width] if frames else codes[: rows * width]
        grid = np.full((max(1, frames), height, width), known[-1], np.int32)
        grid.reshape(-1)[: len(known)] = known
        try:
            decoded = await self._backend.decode(card.id, grid, card.geometry.size(grid.shape))
        except ProblemError:  # the answer does without a preview
            return
        pixels = decoded.pixels
        if not frames:
            pixels = pixels.copy()
            pixels[:, rows * card.patch :] = GREY
        self._emit(Preview(index, pixels))
