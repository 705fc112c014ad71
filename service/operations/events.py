"""The events of a running generation, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.formats.result import EncodeResult
from service.operations.clip import ClipInfo, PixelResult
from service.operations.encode import EncodePlan
from service.types import GenerateParams, GeneratorCard, ModelCard, Size, Timing


@dataclass(frozen=True)
class Accepted:
    """The request is valid and waits.

    Args:
        position: jobs ahead of it, 0 for none.
        seconds: time that it needs once it runs, estimated; None if nothing was measured yet.
        total: steps of the whole request, all samples together.
    """

    position: int
    seconds: float | None
    total: int


@dataclass(frozen=True)
class Started:
    """The first sample left the queue."""


@dataclass(frozen=True)
class Progress:
    """Steps done so far, all samples together."""

    done: int
    total: int


@dataclass(frozen=True, eq=False)
class Preview:
    """The finished part of one sample.

    Args:
        sample: its number.
        pixels: uint8 RGB (T, H, W, 3); what is not known yet is grey.
    """

    sample: int
    pixels: NDArray[np.uint8]


Event = Accepted | Started | Progress | Preview
OnEvent = Callable[[Event], None]


@dataclass(frozen=True, eq=False)
class Sample:
    """One result.

    Args:
        pixels: uint8 RGB (T, H, W, 3), or None if only codes were asked for.
        tokens: int32 (t, h, w), or None.
        latents: float32 (t, h, w, c), or None.
    """

    pixels: NDArray[np.uint8] | None
    tokens: NDArray[np.int32] | None
    latents: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Generation:
    """The result of generate.

    Args:
        generator: the bundle that made it.
        card: the tokenizer that decoded it.
        class_id: its class, or None.
        seed: of the request; with it, the same options make the same samples.
        params: settings that were used, defaults filled in.
        size: frames, height and width of each sample.
        fps: rate of a clip, frames per second.
        prefix_frames: frames at the start that were given, not made.
        samples: in order of their numbers.
        timing: of the slowest sample in the generator.
        decode_ms: time spent on decoding uploaded media, milliseconds.
    """

    generator: GeneratorCard
    card: ModelCard
    class_id: int | None
    seed: int
    params: GenerateParams
    size: Size
    fps: float
    prefix_frames: int
    samples: tuple[Sample, ...]
    timing: Timing
    decode_ms: float = 0.0

    def pixels(self, sample: int) -> PixelResult:
        """Return the pixels of one sample, ready to be written as a file."""
        pixels = self.samples[sample].pixels
        assert pixels is not None
        return PixelResult(self.card, pixels, self.fps, self.timing)

    def codes(self, sample: int, request_id: str | None = None) -> EncodeResult:
        """Return the tokens or latents of one sample as `/decode` takes them."""
        made = self.samples[sample]
        clip = ClipInfo(self.size, self.fps if self.size[0] > 1 else None)
        return EncodePlan(self.card, "both").result(made.tokens, made.latents, clip, request_id)
