"""A generation in the form that travels."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from media.identify import IMAGE_OUTPUTS, VIDEO_OUTPUTS
from service.formats.codes import write_codes
from service.formats.media_types import MSGPACK, NPY, NPZ
from service.formats.result import ClipSize
from service.formats.samples import (
    SAMPLES_TYPES,
    SampleArrays,
    SampleFile,
    Samples,
    SamplesMeta,
    write_arrays,
    write_files,
)
from service.operations.concurrency import gather_or_cancel
from service.operations.events import Generation
from service.operations.options_generate import GenerateOptions
from service.types import Media


@dataclass(frozen=True)
class SampleForm:
    """The form of an answer.

    Args:
        media_type: of the whole.
        pixels_type: of the pixels of each sample, where the whole is a collection of files.
    """

    media_type: str
    pixels_type: str


def samples_meta(made: Generation, request_id: str | None = None) -> SamplesMeta:
    """Return the description of all samples."""
    generator, (frames, height, width) = made.generator, made.size
    names = dict(enumerate(generator.classes))
    return SamplesMeta(
        id=request_id,
        model=generator.id,
        bundle=generator.hash,
        tokenizer=made.card.id,
        tokenizer_bundle=made.card.hash,
        class_id=made.class_id,
        class_name=None if made.class_id is None else names.get(made.class_id),
        seed=made.seed,
        params=made.params.of(generator.kind),
        size=ClipSize(frames=frames, height=height, width=width),
        fps=made.fps if frames > 1 else None,
        prefix_frames=made.prefix_frames,
    )


def sample_arrays(made: Generation, request_id: str | None = None) -> Samples:
    """Return all samples as arrays."""
    arrays = [
        SampleArrays(
            sample.pixels,
            None if sample.tokens is None and sample.latents is None else made.codes(index, request_id),
        )
        for index, sample in enumerate(made.samples)
    ]
    return Samples(samples_meta(made, request_id), tuple(arrays))


def sample_types(frames: int) -> tuple[str, ...]:
    """Return the media types of the pixels of one sample with so many frames, the default first."""
    return (*IMAGE_OUTPUTS, *VIDEO_OUTPUTS, NPY) if frames == 1 else (*VIDEO_OUTPUTS, NPY)


async def render(
    made: Generation, media: Media, form: SampleForm, options: GenerateOptions, request_id: str | None = None
) -> bytes:
    """Return a generation as one body.

    Args:
        made: all samples.
        media: the pool that compresses pictures and clips.
        form: of the body.
        options: of the request.
        request_id: of the request.
    """
    if options.output == "tokens" and options.n == 1:
        return await asyncio.to_thread(write_codes, made.codes(0, request_id), form.media_type)
    if form.media_type == MSGPACK:
        return await asyncio.to_thread(write_arrays, sample_arrays(made, request_id))
    if form.media_type in SAMPLES_TYPES:
        indices = range(len(made.samples))
        files = await gather_or_cancel(sample_files(made, media, form, options, index, request_id) for index in indices)
        return await asyncio.to_thread(write_files, samples_meta(made, request_id), files, form.media_type)
    return await made.pixels(0).render(media, form.media_type, options.quality)


async def sample_files(
    made: Generation,
    media: Media,
    form: SampleForm,
    options: GenerateOptions,
    index: int,
    request_id: str | None = None,
) -> dict[str, SampleFile]:
    """Return one sample as files, codes as npz; the arguments are those of `render`."""
    files = {}
    if options.output != "tokens":
        data = await made.pixels(index).render(media, form.pixels_type, options.quality)
        files["pixels"] = SampleFile(form.pixels_type, data)
    if options.output != "pixels":
        files["codes"] = SampleFile(NPZ, await asyncio.to_thread(write_codes, made.codes(index, request_id), NPZ))
    return files
