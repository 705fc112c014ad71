"""Encoding and decoding on this machine, in chunks where the tokenizer allows it, so that any length of clip fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle import BundleError, load_bundle
from model.inference.tokenizer import CompiledTokenizer
from model.tokenizer.config import VQConfig
from model.tokenizer.streaming import DecoderState, EncoderState
from model.tokenizer.tokenizer import CodeError
from service.cli.errors import CommandError
from service.cli.options import Device
from service.formats.result import ClipSize, EncodeMeta, EncodeResult
from service.types import Size, Want

Frame = NDArray[np.uint8]  # (H, W, 3)
Clip = NDArray[np.uint8]  # (T, H, W, 3)

# Pixels that are in the network at a time: enough to keep it busy, little beside the weights.
CHUNK_PIXELS = 2**20


class LocalTokenizer:
    """A bundle that is run here.

    Args:
        bundle: the bundle's folder.
        device: where to run it.

    Raises:
        CommandError: the folder is not a sound bundle, or the device is not there.
    """

    def __init__(self, bundle: Path, device: Device) -> None:
        cuda = torch.cuda.is_available()
        if device == "cuda" and not cuda:
            raise CommandError("there is no CUDA device here; use --device cpu")
        self._device = torch.device("cuda" if cuda and device != "cpu" else "cpu")
        with _told():
            loaded = load_bundle(bundle, self._device)
        self.name, self.hash, self.config = loaded.name, loaded.hash, loaded.config
        on_gpu = self._device.type == "cuda"
        self._tokenizer = CompiledTokenizer(loaded.tokenizer) if on_gpu else loaded.tokenizer

    def encode(self, frames: Iterable[Frame], want: Want | None) -> EncodeResult:
        """Encode a picture or a clip.

        Args:
            frames: uint8 RGB (H, W, 3), all alike, at least one.
            want: what to compute; None for the tokens of a VQ bundle and the latents of a VAE bundle. The latents of a
                VQ bundle need the whole clip at once.

        Returns:
            Tokens (uint16 where the codebook allows it, else int32), latents (float32), or both, and all of their
            description that the frames alone tell.

        Raises:
            CommandError: a VAE bundle has no tokens; the clip does not fit into memory.
        """
        seen = _Seen(frames)
        tokens, latents = self._wanted(seen, want)
        config = self.config
        size = ClipSize(frames=seen.count, height=seen.shape[0], width=seen.shape[1])
        meta = EncodeMeta(
            model=self.name,
            bundle=self.hash,
            kind="vq" if config.is_vq else "vae",
            grid=list(config.geometry.grid(size.as_tuple())),
            codebook_size=config.head.codes if isinstance(config.head, VQConfig) else None,
            size=size,
        )
        return EncodeResult(meta, tokens, latents)

    def _wanted(self, frames: Iterable[Frame], want: Want | None) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Tokens and latents of a clip, None for what was not wanted."""
        usual: Want = "tokens" if self.config.is_vq else "latents"
        want = want or usual
        if want != "latents" and not self.config.is_vq:
            raise CommandError(f"{self.name} is a VAE bundle: it makes latents, no tokens")
        if want == usual:
            codes = self._array(torch.cat([part.cpu() for part in self._codes(frames)], dim=1))
            return (codes, None) if usual == "tokens" else (None, codes)
        latents = self._latents(np.stack(list(frames)))
        return self._array(self._tokenizer.quantize(latents)) if want == "both" else None, self._array(latents)

    def decode(self, result: EncodeResult) -> Iterator[Clip]:
        """Decode tokens, or latents where there are no tokens.

        Args:
            result: what `omnitok encode` or the service made with this bundle.

        Returns:
            uint8 RGB (n, H, W, 3), one part of the clip after the other, cropped to the size in the metadata.

        Raises:
            CommandError: the codes belong to another bundle, or do not fit this one.
        """
        frames, height, width = self.size(result)
        source = result.latents if result.tokens is None else result.tokens
        codes = torch.from_numpy(np.array(source, np.int64 if result.tokens is not None else np.float32))[None]
        given = 0
        for pixels in self._pixels(codes, (frames, height, width)):
            part = pixels[0, : frames - given, :height, :width]
            given += len(part)
            yield part.cpu().numpy()

    def size(self, result: EncodeResult) -> Size:
        """(frames, height, width) of the pixels behind codes.

        Raises:
            CommandError: the codes belong to another bundle, or their size to another grid.
        """
        made_by = result.meta.bundle
        if made_by is None:
            raise CommandError("the tokens do not say which bundle made them, so they cannot be decoded safely")
        if made_by != self.hash:
            raise CommandError(
                f"the tokens were made by bundle {made_by} ({result.meta.model}), not by {self.hash} ({self.name})"
            )
        t, h, w = result.grid
        if result.meta.size is None:
            return self.config.geometry.size((t, h, w))
        size = result.meta.size.as_tuple()
        grid = self.config.geometry.grid(size)
        if grid != (t, h, w):
            raise CommandError(f"a clip of {size} (frames, height, width) has the grid {grid}, not {(t, h, w)}")
        return size

    def reconstruct(self, frames: Iterable[Frame]) -> Iterator[tuple[Clip, Clip]]:
        """Encode and decode.

        Args:
            frames: as for `encode`.

        Returns:
            Parts of the clip: originals and reconstructions, uint8 RGB (n, H, W, 3) each.

        Raises:
            CommandError: the clip does not fit into memory.
        """
        waiting: list[Frame] = []
        state: DecoderState | None = None
        for codes in self._codes(_noted(frames, waiting)):
            height, width = waiting[0].shape[:2]
            if self.config.streams:
                decoded, state = self._decode_chunk(codes, state)
            else:
                decoded = self._decode_whole(codes, (len(waiting), height, width))
            count = min(len(waiting), decoded.shape[1])
            yield np.stack(waiting[:count]), decoded[0, :count, :height, :width].cpu().numpy()
            del waiting[:count]

    def _codes(self, frames: Iterable[Frame]) -> Iterator[Tensor]:
        """Codes (1, t, h, w[, c]) of a clip, part by part where the tokenizer streams; no part is empty."""
        if not self.config.streams:
            yield self._encode_whole(np.stack(list(frames)))
            return
        state = None
        for part, last in _chunks(frames, self._chunk_frames):
            codes, state = self._encode_chunk(np.stack(part), state, last)
            if codes.shape[1]:
                yield codes

    def _pixels(self, codes: Tensor, size: Size) -> Iterator[Tensor]:
        """Pixels (1, n, H, W, 3) of codes, part by part where the tokenizer streams."""
        if not self.config.streams:
            yield self._decode_whole(codes, size)
            return
        state = None
        step = max(1, self._chunk_frames(size[1], size[2]) // self.config.temporal_patch)
        for start in range(0, codes.shape[1], step):
            pixels, state = self._decode_chunk(codes[:, start : start + step], state)
            yield pixels

    def _chunk_frames(self, height: int, width: int) -> int:
        group = self.config.temporal_patch
        return max(1, CHUNK_PIXELS // (height * width * group)) * group

    def _array(self, codes: Tensor) -> NDArray[Any]:
        """One clip's codes, as small as they travel."""
        whole = codes[0].cpu()
        if whole.is_floating_point():
            return whole.float().numpy()
        assert isinstance(self.config.head, VQConfig)
        return whole.numpy().astype(np.uint16 if self.config.head.codes <= 2**16 else np.int32)

    def _load(self, pixels: Clip) -> Tensor:
        return torch.from_numpy(pixels)[None].to(self._device)

    # Each visit to the model is a method of its own, so that no generator is left suspended in inference mode.

    def _encode_whole(self, pixels: Clip) -> Tensor:
        with _told(), torch.inference_mode():
            return self._tokenizer.encode(self._load(pixels))

    def _latents(self, pixels: Clip) -> Tensor:
        with _told(), torch.inference_mode():
            return self._tokenizer.encode_latents(self._load(pixels))

    def _encode_chunk(self, pixels: Clip, state: EncoderState | None, last: bool) -> tuple[Tensor, EncoderState]:
        with _told(), torch.inference_mode():
            return self._tokenizer.encode_chunk(self._load(pixels), state, final=last)

    def _decode_whole(self, codes: Tensor, size: Size) -> Tensor:
        with _told(), torch.inference_mode():
            return self._tokenizer.decode(codes.to(self._device), size)

    def _decode_chunk(self, codes: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        with _told(), torch.inference_mode():
            return self._tokenizer.decode_chunk(codes.to(self._device), state)


@contextmanager
def _told() -> Iterator[None]:
    """Turn the model's refusals into the command's errors."""
    try:
        yield
    except (BundleError, CodeError) as error:
        raise CommandError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise CommandError("the accelerator's memory does not suffice; use a smaller --size or --device cpu") from error


class _Seen:
    """Frames that are counted as they pass.

    Attributes:
        count: frames so far.
        shape: (H, W, 3) of the last one.
    """

    def __init__(self, frames: Iterable[Frame]) -> None:
        self._frames = frames
        self.count = 0
        self.shape: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            self.count += 1
            self.shape = frame.shape
            yield frame


def _noted(frames: Iterable[Frame], notes: list[Frame]) -> Iterator[Frame]:
    """Pass frames on, and keep them in `notes` as well."""
    for frame in frames:
        notes.append(frame)
        yield frame


def _chunks(frames: Iterable[Frame], chunk_frames: Callable[[int, int], int]) -> Iterator[tuple[list[Frame], bool]]:
    """Frames in groups, and whether a group is the last one."""
    group: list[Frame] = []
    limit = 0
    for frame in frames:
        limit = limit or chunk_frames(frame.shape[0], frame.shape[1])
        if len(group) == limit:
            yield group, False
            group = []
        group.append(frame)
    if group:
        yield group, True
