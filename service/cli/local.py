"""A tokenizer of this machine, as the commands see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from media.frame_reader import FrameReader
from service.cli.batch import Source
from service.cli.destination import Target
from service.cli.inputs import open_media, source_of
from service.cli.offline import CountedFrames, LocalTokenizer
from service.cli.options import Device
from service.cli.outputs import Part, writing_pixels
from service.cli.progress import tracked
from service.cli.tokenizers import Choose
from service.formats.result import EncodeResult
from service.operations.clip import ClipInfo
from service.operations.decode import plan_decode
from service.operations.encode import plan_encode
from service.operations.options import DecodeOptions, EncodeOptions


class BundleTokenizer:
    """The tokenizer of a bundle.

    Args:
        bundle: the bundle's folder.
        device: where to run it.
    """

    def __init__(self, bundle: Path, device: Device) -> None:
        self._tokenizer = LocalTokenizer(bundle, device)

    def encode(self, source: Source, options: EncodeOptions) -> EncodeResult:
        plan = plan_encode([self._tokenizer.card], options)
        with open_media(source.path, options.media(), source.name) as reader:
            frames = CountedFrames(tracked(reader, f"encoding {source.name}", reader.expected))
            tokens, latents = self._tokenizer.encode(frames, plan.want)
            clip = ClipInfo(frames.size, reader.info().kept_fps, source_of(reader), reader.preprocess)
        return plan.result(tokens, latents, clip)

    def decode(self, source: Source, result: EncodeResult, options: DecodeOptions, choose: Choose) -> Target:
        plan = plan_decode([self._tokenizer.card], result, options)
        frames = plan.size[0]
        target = choose(frames)
        with writing_pixels(target, frames, plan.fps, options.quality) as write:
            for part in tracked(self._tokenizer.decode(plan), f"decoding {source.name}", frames, len):
                write(part)
        return target

    def reconstruct(self, reader: FrameReader, model: str | None) -> Iterator[tuple[Part, Part]]:
        return self._tokenizer.reconstruct(reader)
