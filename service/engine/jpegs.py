"""JPEGs decoded by the JPEG engines of a GPU, through nvImageCodec: a batch of files in, pixels on the device out.

The engines round otherwise than libjpeg-turbo, so their pixels are not those of `media`: the caller asks for them.
"""

from __future__ import annotations

import io
import queue
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from media.resize import Resampling
from service.engine.pictures import COLOURS, SourcePicture

ENGINES = "HW_GPU_ONLY"  # alone: what other code decodes instead would have other pixels, by the neighbours in a batch
OPTIONS = ":fancy_upsampling=1"  # chroma as libjpeg-turbo interpolates it
CODECS = 2  # one is prepared by the host while the engines are at the other
MAX_TEST_ERROR = 2.0  # grey levels, mean; swapped colours are off by many more

Codec = Callable[[Sequence[NDArray[np.uint8]]], "list[Tensor | None]"]


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

    data: NDArray[np.uint8]
    size: tuple[int, int]
    resampling: Resampling
    flip: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the pixels that are encoded: (1, height, width, 3)."""
        return 1, *self.resampling.target, COLOURS


class JpegDecoder:
    """A decoder of batches, of which one damaged file spoils no other; threads may share it.

    Args:
        codecs: equal ones, each for one thread at a time. They decode files (n) to uint8 RGB (H, W, 3) on the device,
            or to None; one file that they refuse may cost the others.
    """

    def __init__(self, *codecs: Codec) -> None:
        self._free: queue.SimpleQueue[Codec] = queue.SimpleQueue()
        for codec in codecs:
            self._free.put(codec)

    def decode(self, jpegs: Sequence[SourceJpeg]) -> list[SourcePicture | None]:
        """Decode JPEGs; None for each that the codec refuses."""
        files = {id(jpeg.data): jpeg.data for jpeg in jpegs}  # a mirror image shares those of its picture
        pixels = dict(zip(files, self.pixels([*files.values()]), strict=True))
        return [_picture(jpeg, pixels[id(jpeg.data)]) for jpeg in jpegs]

    def pixels(self, files: Sequence[NDArray[np.uint8]]) -> list[Tensor | None]:
        """Decode files (n), each to uint8 RGB (H, W, 3) on the device; None for each that the codec refuses."""
        codec = self._free.get()
        try:
            decoded = codec(files)
        finally:
            self._free.put(codec)
        refused = [place for place, pixels in enumerate(decoded) if pixels is None]
        if refused and len(files) > 1:
            middle = -(-len(refused) // 2)
            for part in filter(None, (refused[:middle], refused[middle:])):
                for place, pixels in zip(part, self.pixels([files[place] for place in part]), strict=True):
                    decoded[place] = pixels
        return decoded


def _picture(jpeg: SourceJpeg, pixels: Tensor | None) -> SourcePicture | None:
    if pixels is None or pixels.shape != (*jpeg.size, COLOURS):
        return None
    return SourcePicture(pixels, jpeg.resampling, jpeg.flip)


class NvImageCodec:
    """A codec of the current GPU, for one thread at a time.

    Args:
        backend: name of one kind of nvImageCodec's backends.
        threads: of the host, where the backend needs any.
        options: of nvImageCodec.

    Raises:
        ImportError: the library is missing.
        RuntimeError: it does not find a GPU.
    """

    def __init__(self, backend: str = ENGINES, threads: int = 1, options: str = OPTIONS) -> None:
        from nvidia import nvimgcodec

        self._library = nvimgcodec
        kind = nvimgcodec.Backend(nvimgcodec.BackendKind.__members__[backend])
        self._decoder = nvimgcodec.Decoder(backends=[kind], max_num_cpu_threads=threads, options=options)
        self._params = nvimgcodec.DecodeParams(apply_exif_orientation=False)
        self._stream = torch.cuda.Stream()
        self._images: list[Any] = []  # reused: the driver would give memory back after each batch

    def __call__(self, files: Sequence[NDArray[np.uint8]]) -> list[Tensor | None]:
        """Decode files (n), each to uint8 RGB (H, W, 3), or None."""
        streams = [self._library.CodeStream(data) for data in files]
        with torch.cuda.stream(self._stream):
            images = self._decode(streams)
            decoded = [None if image is None else torch.as_tensor(image, device="cuda") for image in images]
            present = [pixels for pixels in decoded if pixels is not None]
            if not present:
                return decoded
            copied = torch.cat([pixels.flatten() for pixels in present])
            done = torch.cuda.Event(blocking=True)  # a thread that spins would take a core from the readers
            done.record()
        done.synchronize()
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


def open_jpeg_engines() -> JpegDecoder:
    """Return a decoder on the engines of the current GPU, which has decoded a test picture.

    Raises:
        NoJpegEnginesError: there are none, or nothing that reaches them.
    """
    try:
        decoder = JpegDecoder(*(NvImageCodec() for _ in range(CODECS)))
    except ImportError as error:
        raise NoJpegEnginesError(
            "JPEGs are decoded on a GPU by nvImageCodec, which is not installed here. "
            "Run pip install -e '.[gpu-jpeg]' in a checkout, or use --jpeg cpu."
        ) from error
    except RuntimeError as error:
        raise NoJpegEnginesError(f"nvImageCodec does not start: {error}. Use --jpeg cpu.") from error
    if not decodes_like_media(decoder):
        raise NoJpegEnginesError(
            "This GPU decodes no JPEG, or to wrong colours: it may have no JPEG engines, or nvJPEG may be missing. "
            "Use --jpeg cpu."
        )
    return decoder


def decodes_like_media(decoder: JpegDecoder) -> bool:
    """Return whether a colourful and a grey picture have the pixels that Pillow gives, but for rounding."""
    rows, columns = np.mgrid[0:96, 0:128]
    shown = Image.fromarray(np.stack([2 * rows, 255 - 2 * rows, columns], -1).astype(np.uint8))
    for picture in (shown, shown.convert("L")):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95)
        data = np.frombuffer(file.getvalue(), np.uint8)
        with Image.open(file) as image:
            wanted = np.asarray(image.convert("RGB"), np.float32)
        [found] = decoder.pixels([data])
        if found is None or found.shape != wanted.shape:
            return False
        if np.abs(found.cpu().numpy() - wanted).mean() > MAX_TEST_ERROR:
            return False
    return True
