"""`POST /generate`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from media.identify import IMAGE_OUTPUTS, VIDEO_OUTPUTS
from media.spread import spread
from service.api.event_stream import Channel, Event, EventStream, open_stream
from service.api.exchange import Exchange
from service.api.jobs import accepted, submit
from service.api.negotiation import choose
from service.api.parsing_generate import GENERATE, GenerateUpload
from service.api.routes.route import Route
from service.errors import ProblemError
from service.formats.codes import CODES_TYPES
from service.formats.media_types import EVENT_STREAM
from service.formats.pixels import amount
from service.formats.samples import SAMPLES_TYPES, SampleFile, sample_fields
from service.operations.events import Accepted, Generation, OnEvent, Preview, Progress, Started
from service.operations.events import Event as OperationEvent
from service.operations.generate import generate as run
from service.operations.generate_plan import GeneratePlan
from service.operations.options_generate import GenerateOptions
from service.operations.samples import SampleForm, render, sample_files, sample_types, samples_meta

PREVIEW_TYPE, PREVIEW_QUALITY = "image/jpeg", 70
PREVIEW_FRAMES = 8  # of a clip, one after another from left to right


async def generate(exchange: Exchange, upload: GenerateUpload, options: GenerateOptions) -> Response:
    """Make images or videos of a class, or continue a picture or a clip."""
    if exchange.wants_async:
        return accepted(
            await submit(exchange, upload.source, options, "job", lambda plan: _chosen(exchange, plan, options))
        )
    if exchange.wants_events:
        return await _stream(exchange, upload, options)

    def accept(plan: GeneratePlan) -> None:
        exchange.use(plan.generator)
        _choose(exchange, plan, options)
        exchange.note_samples(plan)

    made = await _run(exchange, upload, options.model_copy(update={"preview": False}), accept)
    rendering = time.perf_counter()
    data = await render(made, exchange.media, _form(exchange, made.size[0]), options, exchange.id)
    return exchange.respond(data, made.generator, made.decode_ms, made.timing, rendering, made.seed)


async def _stream(exchange: Exchange, upload: GenerateUpload, options: GenerateOptions) -> EventStream:
    channel = Channel()
    planned: list[GeneratePlan] = []

    def accept(plan: GeneratePlan) -> None:
        exchange.use(plan.generator)
        exchange.note_samples(plan)
        planned.append(plan)

    def on_event(event: OperationEvent) -> None:
        if isinstance(event, Accepted):
            channel.put("accepted", _plan_fields(exchange, planned[0]) | asdict(event))
        elif isinstance(event, Started):
            channel.put("started", {})
        elif isinstance(event, Progress):
            channel.offer("progress", lambda: _progress(event))
        elif options.preview:
            channel.offer(event.sample, lambda: _preview(exchange, event))

    async def work() -> None:
        made = await _run(exchange, upload, options, accept, on_event)
        exchange.note(made.timing, decode=made.decode_ms)
        meta, form = samples_meta(made, exchange.id).model_dump(), _form(exchange, made.size[0])
        for index in range(len(made.samples)):
            files = await sample_files(made, exchange.media, form, options, index, exchange.id)
            channel.put("result", meta | sample_fields(index, files))

    def headers() -> dict[str, str]:
        return exchange.headers(planned[0].generator, planned[0].seed)

    task = asyncio.create_task(exchange.deadline.hold(work()))
    return await open_stream(channel, task, exchange.id, headers, exchange.limits.stream_idle_seconds)


async def _run(
    exchange: Exchange,
    upload: GenerateUpload,
    options: GenerateOptions,
    accept: Callable[[GeneratePlan], None],
    on_event: OnEvent | None = None,
) -> Generation:
    try:
        return await run(
            exchange.backend,
            exchange.generators,
            exchange.media,
            upload.source,
            options,
            exchange.limits,
            on_event,
            accept,
            exchange.deadline.left(),
        )
    except ProblemError as error:
        if error.code == "use-async":
            error.detail += " Or send it with the header `Prefer: respond-async`: the answer is a job to fetch later."
        raise


def _choose(exchange: Exchange, plan: GeneratePlan, options: GenerateOptions) -> None:
    if options.n > 1 or options.output == "both":
        exchange.choose(SAMPLES_TYPES, "An answer of several parts")
    elif options.output == "tokens":
        exchange.choose_codes(
            "tokens" if plan.generator.kind == "lm" else "latents", plan.card.geometry.positions(plan.size)
        )
    else:
        exchange.choose((*sample_types(plan.size[0]), *SAMPLES_TYPES), amount(plan.size[0]))


def _chosen(exchange: Exchange, plan: GeneratePlan, options: GenerateOptions) -> SampleForm:
    _choose(exchange, plan, options)
    return _form(exchange, plan.size[0])


def _form(exchange: Exchange, frames: int) -> SampleForm:
    """Return the form of samples of so many frames: pixels in the best type that the reader accepts."""
    types = sample_types(frames)
    return SampleForm(exchange.media_type, choose(exchange.accept, types) or types[0])


def _plan_fields(exchange: Exchange, plan: GeneratePlan) -> dict[str, Any]:
    return {
        "id": exchange.id,
        "model": plan.generator.id,
        "bundle": plan.generator.hash,
        "class_id": plan.class_id,
        "seed": plan.seed,
        "samples": plan.samples,
        "size": list(plan.size),
    }


async def _progress(event: Progress) -> Event:
    return "progress", asdict(event)


async def _preview(exchange: Exchange, event: Preview) -> Event:
    picture = _side_by_side(event.pixels)
    data = await exchange.media.encode(picture, PREVIEW_TYPE, 1.0, PREVIEW_QUALITY)
    return "preview", sample_fields(event.sample, {"pixels": SampleFile(PREVIEW_TYPE, data)})


def _side_by_side(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return frames of a clip (T, H, W, 3), a few over its whole length, as one picture (1, H, n W, 3)."""
    return np.concatenate(list(pixels[spread(len(pixels), PREVIEW_FRAMES)]), axis=1)[None]


ROUTE = Route(
    "/generate",
    GENERATE,
    GenerateOptions,
    tuple(dict.fromkeys((*IMAGE_OUTPUTS, *VIDEO_OUTPUTS, *SAMPLES_TYPES, *CODES_TYPES, EVENT_STREAM))),
    generate,
    lambda settings: settings.generate_seconds,
    as_job=True,
)
