"""A generation in the form that travels."""

from __future__ import annotations

from service.formats.result import ClipSize
from service.formats.samples import SampleArrays, Samples, SamplesMeta
from service.operations.events import Generation


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
