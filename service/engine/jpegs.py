"""JPEGs decoded by the JPEG engines of a GPU, through nvImageCodec: a batch of files in, pixels on the device out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from media.reader import open_frames
from media.resize import Resampling
from service.engine.pictures import COLOURS

ENGINES = "HW_GPU_ONLY"  # alone: the library's other decoders round otherwise
OPTIONS = ":fancy_upsampling=1"  # chroma as libjpeg-turbo interpolates it
TEST_PICTURES = (((37, 51), 50), ((256, 321), 75), ((375, 500), 95))  # sizes and qualities

File = NDArray[np.uint8]
Codec = Callable[[Sequence[File]], "list[Tensor | None]"]


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


class NvImageCodec:
    """A codec of the current GPU, for one thread at a time.

    Raises:
        NoJpegEnginesError: the library is missing, or finds no engines.
    """

    def __init__(self) -> None:
        try:
            from nvidia import nvimgcodec
        except ImportError as error:
            raise NoJpegEnginesError(
                "JPEGs are decoded on a GPU by nvImageCodec, which is not installed here. "
                "Run pip install -e '.[gpu-jpeg]' in a checkout, or use --jpeg cpu."
            ) from error
        self._library = nvimgcodec
        kind = nvimgcodec.Backend(nvimgcodec.BackendKind.__members__[ENGINES])
        try:
            self._decoder = nvimgcodec.Decoder(backends=[kind], max_num_cpu_threads=1, options=OPTIONS)
        except RuntimeError as error:
            raise NoJpegEnginesError(f"NVIDIA's nvImageCodec does not start: {error}. Use --jpeg cpu.") from error
        self._params = nvimgcodec.DecodeParams(apply_exif_orientation=False)
        self._stream = torch.cuda.Stream()
        self._images: list[Any] = []  # reused: the driver would give memory back after each batch

    def __call__(self, files: Sequence[File]) -> list[Tensor | None]:
        """Decode files (n), each to uint8 RGB (H, W, 3) in new memory, or None."""
        streams = [self._library.CodeStream(data) for data in files]
        with torch.cuda.stream(self._stream):
            images = self._decode(streams)
            decoded = [None if image is None else torch.as_tensor(image, device="cuda") for image in images]
            present = [pixels for pixels in decoded if pixels is not None]
            if not present:
                return decoded
            copied = torch.cat([pixels.flatten() for pixels in present])
            wait_for_device()
        parts = iter(copied.split([pixels.numel() for pixels in present]))
        return [None if pixels is None else next(parts).view(pixels.shape) for pixels in decoded]

    def _decode(self, streams: Sequence[Any]) -> list[Any]:
        """Return images of the library, or None; the next call writes over them."""
        reused = self._images[: len(streams)] if len(self._images) >= len(streams) else None
        images: list[Any] = self._decoder.decode(
            streams, images=reused, params=self._params, cuda_stream=self._stream.cuda_stream
        )
        if reused is None and None not in images:
            self._images = images
        return images


def wait_for_device() -> None:
    """Wait until the current stream is done, asleep: a thread that spins would take a core from the readers."""
    done = torch.cuda.Event(blocking=True)
    done.record()
    done.synchronize()


def check_pixels(codec: Codec) -> None:
    """Compare test pictures with what `media` decodes.

    Raises:
        NoJpegEnginesError: one has other pixels, or none.
    """
    pictures = [*_test_pictures()]
    for some in (pictures, pictures[::-1]):  # memory is used again, for other sizes then
        decoded = codec([np.frombuffer(data, np.uint8) for _, data in some])
        for (name, data), pixels in zip(some, decoded, strict=True):
            if pixels is None:
                raise NoJpegEnginesError(
                    f"This GPU does not decode a JPEG {name}: it may have no JPEG engines, or nvJPEG may be missing. "
                    "Use --jpeg cpu."
                )
            (wanted,) = open_frames(io.BytesIO(data), None)
            if not np.array_equal(pixels.cpu().numpy(), wanted):
                raise NoJpegEnginesError(
                    f"This GPU decodes a JPEG {name} to other pixels than the CPU. Use --jpeg cpu."
                )


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
