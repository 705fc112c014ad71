"""The network of a tokenizer bundle, fed in chunks where it allows that, so that any length of clip fits."""

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

from model.bundle import BundleError, load_bundle
from model.inference.tokenizer import CompiledTokenizer
from model.tokenizer.streaming import stream_decode, stream_encode
from model.tokenizer.tokenizer import CodeError
from service.cli.errors import CommandError, StopError
from service.cli.options import Device
from service.cli.outputs import Part
from service.engine.device import choose_device
from service.operations.decode import DecodePlan
from service.types import ModelCard, Want

Frame = NDArray[np.uint8]  # (H, W, 3)

# Pixels that are in the network at a time: enough to keep it busy, little compared with the weights.
CHUNK_PIXELS = 2**20


class Network:
    """The network of a tokenizer bundle on this machine.

    Args:
        bundle: the bundle's folder.
        device: where to run it.
        card: of the bundle.

    Raises:
        StopError: the bundle is damaged, or the device is not there.
    """

    def __init__(self, bundle: Path, device: Device, card: ModelCard) -> None:
        self._card = card
        try:
            self._device = choose_device(device)
        except ValueError as error:
            raise StopError(str(error)) from error
        with _command_errors(StopError):
            tokenizer = load_bundle(bundle, self._device).tokenizer
        self._tokenizer = CompiledTokenizer(tokenizer) if self._device.type == "cuda" else tokenizer

    def reconstruct(self, frames: Iterable[Frame]) -> Iterator[tuple[Part, Part]]:
        """Yield parts of a clip and their reconstructions, uint8 RGB (n, H, W, 3) each."""
        waiting: list[Frame] = []

        def noted() -> Iterator[Frame]:
            for frame in frames:
                waiting.append(frame)
                yield frame

        with _command_errors():
            codes = stream_encode(self._tokenizer, self._chunks(noted()))
            for decoded in stream_decode(self._tokenizer, codes):
                height, width = waiting[0].shape[:2]
                count = min(len(waiting), decoded.shape[1])
                yield np.stack(waiting[:count]), decoded[0, :count, :height, :width].cpu().numpy()
                del waiting[:count]

    def encode(self, frames: Iterable[Frame], want: Want) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
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

    def decode(self, plan: DecodePlan) -> Iterator[Part]:
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
def _command_errors(kind: type[CommandError] = CommandError) -> Iterator[None]:
    """Turn the model's refusals into the command's errors."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise kind("The accelerator's memory does not suffice; use a smaller --size or --device cpu.") from error
    except (BundleError, CodeError) as error:
        raise kind(str(error)) from error
