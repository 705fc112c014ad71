"""Encoding and decoding on this machine, without torch until an input has passed its checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from media.frame_reader import FrameReader
from model.bundle_files import BundleError
from model.bundle_header import read_tokenizer
from service.cli.batch import InputFile
from service.cli.destination import Choose, Target
from service.cli.errors import CommandError
from service.cli.inputs import open_media, source_of
from service.cli.options import Device
from service.cli.outputs import Part, writing_pixels
from service.cli.progress import tracked
from service.engine.card import model_card
from service.formats.result import EncodeResult
from service.operations.clip import ClipInfo
from service.operations.decode import plan_decode
from service.operations.encode import plan_encode
from service.operations.options import DecodeOptions, EncodeOptions
from service.types import Size

if TYPE_CHECKING:
    from service.cli.offline_network import Network


class LocalTokenizer:
    """The tokenizer of a bundle, which runs on this machine. The first input that is sound loads its network.

    Args:
        bundle: the bundle's folder.
        device: where to run it.

    Raises:
        CommandError: the folder is not a tokenizer bundle. Methods raise `StopError` if it is damaged, or the device is
            not there.
    """

    def __init__(self, bundle: Path, device: Device) -> None:
        self._bundle, self._device = bundle, device
        try:
            self._card = model_card(read_tokenizer(bundle), device, "float32")
        except BundleError as error:
            raise CommandError(str(error)) from error

    @cached_property
    def _network(self) -> Network:
        from service.cli.offline_network import Network  # needs torch

        return Network(self._bundle, self._device, self._card)

    def encode(self, source: InputFile, options: EncodeOptions) -> EncodeResult:
        plan = plan_encode([self._card], options)
        with open_media(source.path, options.media(), source.name) as reader:
            network = self._network  # before the progress of frames begins
            frames = CountedFrames(tracked(reader, f"encoding {source.name}", reader.expected))
            tokens, latents = network.encode(frames, plan.want)
            clip = ClipInfo(frames.size, reader.info().kept_fps, source_of(reader), reader.preprocess)
        return plan.result(tokens, latents, clip)

    def decode(self, source: InputFile, result: EncodeResult, options: DecodeOptions, choose: Choose) -> Target:
        plan = plan_decode([self._card], result, options)
        frames = plan.size[0]
        target = choose(frames)
        with writing_pixels(target, frames, plan.fps, options.quality) as write:
            parts = self._network.decode(plan)
            for part in tracked(parts, f"decoding {source.name}", frames, len):
                write(part)
        return target

    def reconstruct(self, reader: FrameReader, model: str | None) -> Iterator[tuple[Part, Part]]:
        return self._network.reconstruct(reader)


class CountedFrames:
    """Frames uint8 RGB (H, W, 3) whose number and size are known once they have passed."""

    def __init__(self, frames: Iterable[NDArray[np.uint8]]) -> None:
        self._frames = frames
        self.size: Size = (0, 0, 0)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for count, frame in enumerate(self._frames, 1):
            self.size = (count, frame.shape[0], frame.shape[1])
            yield frame
