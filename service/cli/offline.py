"""Encoding and decoding on this machine, in chunks where the tokenizer allows it, so that any length of clip fits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from media.frame_reader import FrameReader
from model.bundle import BundleError, load_bundle
from model.inference.tokenizer import CompiledTokenizer
from model.tokenizer.streaming import stream_decode, stream_encode
from model.tokenizer.tokenizer import CodeError
from service.cli.batch import InputFile
from service.cli.destination import Choose, Target
from service.cli.errors import CommandError
from service.cli.inputs import open_media, source_of
from service.cli.options import Device
from service.cli.outputs import Part, writing_pixels
from service.cli.progress import tracked
from service.engine.card import model_card
from service.engine.device import choose_device
from service.formats.result import EncodeResult
from service.operations.clip import ClipInfo
from service.operations.decode import DecodePlan, plan_decode
from service.operations.encode import plan_encode
from service.operations.options import DecodeOptions, EncodeOptions
from service.types import Size, Want

Frame = NDArray[np.uint8]  # (H, W, 3)

# Pixels that are in the network at a time: enough to keep it busy, little compared with the weights.
CHUNK_PIXELS = 2**20


class LocalTokenizer:
    """The tokenizer of a bundle, which runs on this machine.

    Args:
        bundle: the bundle's folder.
        device: where to run it.

    Raises:
        CommandError: the folder is not a sound bundle, or the device is not there.
    """

    def __init__(self, bundle: Path, device: Device) -> None:
        try:
            self._device = choose_device(device)
        except ValueError as error:
            raise CommandError(str(error)) from error
        with _command_errors():
            loaded = load_bundle(bundle, self._device)
        self._card = model_card(loaded, self._device, "float32")
        on_gpu = self._device.type == "cuda"
        self._tokenizer = CompiledTokenizer(loaded.tokenizer) if on_gpu else loaded.tokenizer

    def encode(self, source: InputFile, options: EncodeOptions) -> EncodeResult:
        plan = plan_encode([self._card], options)
        with open_media(source.path, options.media(), source.name) as reader:
            frames = CountedFrames(tracked(reader, f"encoding {source.name}", reader.expected))
            tokens, latents = self._encode(frames, plan.want)
            clip = ClipInfo(frames.size, reader.info().kept_fps, source_of(reader), reader.preprocess)
        return plan.result(tokens, latents, clip)

    def decode(self, source: InputFile, result: EncodeResult, options: DecodeOptions, choose: Choose) -> Target:
        plan = plan_decode([self._card], result, options)
        frames = plan.size[0]
        target = choose(frames)
        with writing_pixels(target, frames, plan.fps, options.quality) as write:
            for part in tracked(self._decode(plan), f"decoding {source.name}", frames, len):
                write(part)
        return target

    def reconstruct(self, reader: FrameReader, model: str | None) -> Iterator[tuple[Part, Part]]:
        waiting: list[Frame] = []

        def noted() -> Iterator[Frame]:
            for frame in reader:
                waiting.append(frame)
                yield frame

        with _command_errors():
            codes = stream_encode(self._tokenizer, self._chunks(noted()))
            for decoded in stream_decode(self._tokenizer, codes):
                height, width = waiting[0].shape[:2]
                count = min(len(waiting), decoded.shape[1])
                yield np.stack(waiting[:count]), decoded[0, :count, :height, :width].cpu().numpy()
                del waiting[:count]

    def _encode(self, frames: Iterable[Frame], want: Want) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Return int32 tokens (t, h, w) and float32 latents (t, h, w, c), None for what was not wanted.

        The latents of a VQ bundle need the whole clip at once.
        """
        with _command_errors():
            if want == "tokens" or self._card.kind == "vae":
                codes = torch.cat([part.cpu() for part in stream_encode(self._tokenizer, self._chunks(frames))], dim=1)
                return (_array(codes), None) if want == "tokens" else (None, _array(codes))
            with torch.inference_mode():
                latents = self._tokenizer.encode_latents(self._load(np.stack(list(frames))))
                tokens = self._tokenizer.quantize(latents) if want == "both" else None
        return None if tokens is None else _array(tokens), _array(latents)

    def _decode(self, plan: DecodePlan) -> Iterator[Part]:
        """Yield parts of the clip, uint8 RGB (n, H, W, 3), cropped to the size of the plan."""
        frames, height, width = plan.size
        codes = torch.from_numpy(plan.codes)[None]
        codes = codes if codes.is_floating_point() else codes.long()
        step = max(1, self._chunk_frames(height, width) // self._card.temporal_patch)
        given = 0
        with _command_errors():
            for pixels in stream_decode(self._tokenizer, (part.to(self._device) for part in codes.split(step, dim=1))):
                part = pixels[0, : frames - given, :height, :width]
                given += len(part)
                yield part.cpu().numpy()

    def _chunks(self, frames: Iterable[Frame]) -> Iterator[Tensor]:
        """Gather frames into pixels (1, n, H, W, 3): the whole clip where the tokenizer does not stream."""
        frames = iter(frames)
        for first in frames:
            limit = self._chunk_frames(*first.shape[:2]) if self._card.streaming else None
            yield self._load(np.stack([first, *islice(frames, None if limit is None else limit - 1)]))

    def _chunk_frames(self, height: int, width: int) -> int:
        group = self._card.temporal_patch
        return max(1, CHUNK_PIXELS // (height * width * group)) * group

    def _load(self, pixels: Part) -> Tensor:
        return torch.from_numpy(pixels)[None].to(self._device)


def _array(codes: Tensor) -> NDArray[Any]:
    """Return one clip's codes: int32 tokens or float32 latents."""
    whole = codes[0].cpu()
    return (whole.float() if whole.is_floating_point() else whole.int()).numpy()


@contextmanager
def _command_errors() -> Iterator[None]:
    """Turn the model's refusals into the command's errors."""
    try:
        yield
    except (BundleError, CodeError) as error:
        raise CommandError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise CommandError(
            "The accelerator's memory does not suffice; use a smaller --size or --device cpu."
        ) from error


class CountedFrames:
    """Frames uint8 RGB (H, W, 3) whose number and size are known once they have passed."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self._frames = frames
        self.size: Size = (0, 0, 0)

    def __iter__(self) -> Iterator[Frame]:
        for count, frame in enumerate(self._frames, 1):
            self.size = (count, frame.shape[0], frame.shape[1])
            yield frame
