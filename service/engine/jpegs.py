"""JPEGs that the device decodes: files in shared memory in, pixels in memory of the device out."""

from __future__ import annotations

import io
import math
import queue
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from media.reader import open_frames
from media.resize import Resampling
from service.engine.pictures import COLOURS, DevicePixels, SourcePicture

CODECS = 2  # one parses files while those of the other are decoded
MOST_ROUNDED = 0.001  # share of values that chroma, interpolated in floating point, may leave one level off
TEST_PICTURES = (((37, 51), 50), ((256, 321), 75), ((375, 500), 95))  # sizes and qualities

File = NDArray[np.uint8]
Codec = Callable[[Sequence[File], Sequence[tuple[int, int]], Tensor], bool]


class NoJpegEnginesError(Exception):
    """JPEGs cannot be decoded by engines here; the sentence names the remedy."""


class SourceJpeg(NamedTuple):
    """A JPEG before its decoding and resampling.

    Args:
        data: bytes of the file, uint8 (n).
        size: (height, width) of its pixels.
        resampling: to the size that is encoded.
        flip: encode the mirror image.
    """

    data: File
    size: tuple[int, int]
    resampling: Resampling
    flip: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the pixels that are encoded: (1, height, width, 3)."""
        return 1, *self.resampling.target, COLOURS


class JpegDecoder:
    """A decoder that several threads use.

    Args:
        batches: whose pixels the caller may hold at a time.
        batch_bytes: pixels of each.
        device: of the pixels.
        codec: makes what decodes for one thread at a time.

    Raises:
        NoJpegEnginesError: they cannot decode here.
    """

    def __init__(self, batches: int, batch_bytes: int, device: str, codec: Callable[[], Codec]) -> None:
        slots = batches + CODECS
        self._slots = torch.empty((slots, batch_bytes), dtype=torch.uint8, device=device)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()  # finalizers may put while the same thread gets
        for slot in range(slots):
            self._free.put(slot)
        self._codecs: queue.SimpleQueue[Codec] = queue.SimpleQueue()
        for _ in range(CODECS):
            self._codecs.put(codec())
        self._check_pixels()

    def decode(self, jpegs: Sequence[SourceJpeg]) -> list[SourcePicture] | None:
        """Decode JPEGs into one memory of the device; None if any is refused."""
        unique = list({id(jpeg.data): jpeg for jpeg in jpegs}.values())  # a mirror image shares those of its picture
        files = [jpeg.data for jpeg in unique]
        sizes = [jpeg.size for jpeg in unique]
        memory = self._decode(files, sizes)
        if memory is None:
            return None
        starts = {id(jpeg.data): start for jpeg, start in zip(unique, starts_of_pixels(sizes), strict=False)}
        return [
            SourcePicture(DevicePixels(memory, starts[id(data)], (*size, COLOURS)), resampling, flip)
            for data, size, resampling, flip in jpegs
        ]

    def _decode(self, files: Sequence[File], sizes: Sequence[tuple[int, int]]) -> Tensor | None:
        """Return the memory with the pixels of files, which is used again when nobody holds it."""
        slot = self._free.get()
        memory = self._slots[slot]
        weakref.finalize(memory, self._free.put, slot)
        codec = self._codecs.get()
        try:
            return memory if codec(files, sizes, memory) else None
        finally:
            self._codecs.put(codec)

    def _check_pixels(self) -> None:
        """Compare test pictures with what `media` decodes, by each codec.

        Raises:
            NoJpegEnginesError: one has other pixels, or none.
        """
        pictures = [(name, data, *open_frames(io.BytesIO(data), None)) for name, data in _test_pictures()]
        for _ in range(CODECS):
            for name, data, wanted in pictures:
                memory = self._decode([np.frombuffer(data, np.uint8)], [wanted.shape[:2]])
                if memory is None:
                    raise NoJpegEnginesError(f"This GPU does not decode a JPEG {name} as it should. Use --jpeg cpu.")
                found = memory[: wanted.size].view(wanted.shape).cpu().numpy()
                difference = np.abs(found.astype(np.int16) - wanted)
                if difference.max() > 1 or difference.mean() > MOST_ROUNDED:
                    raise NoJpegEnginesError(
                        f"This GPU decodes a JPEG {name} to other pixels than the CPU. Use --jpeg cpu."
                    )


def starts_of_pixels(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Return where the RGB pixels of each (height, width) begin in one memory, and where the last ones end, bytes."""
    return [*accumulate((COLOURS * math.prod(size) for size in sizes), initial=0)]


def _test_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield JPEGs of each sampling that engines get, with smooth and with sharp parts."""
    rng = np.random.default_rng(0)
    for (height, width), quality in TEST_PICTURES:
        small = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, COLOURS), np.uint8))
        smooth, sharp = (
            np.asarray(small.resize((width, height), how))
            for how in (Image.Resampling.BICUBIC, Image.Resampling.NEAREST)
        )
        picture = Image.fromarray(np.where(np.arange(height)[:, None, None] < height // 2, smooth, sharp))
        for sampling in ("4:4:4", "4:2:2", "4:2:0", "grey"):
            file, is_grey = io.BytesIO(), sampling == "grey"
            settings = {} if is_grey else {"subsampling": sampling}
            (picture.convert("L") if is_grey else picture).save(file, "JPEG", quality=quality, **settings)
            yield f"of {width}x{height} pixels, {sampling}, quality {quality},", file.getvalue()
