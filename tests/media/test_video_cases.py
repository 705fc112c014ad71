"""Clips that phones, recorders and other muxers write, on which readers commonly go wrong."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from media_samples import pattern, psnr, video
from numpy.typing import NDArray
from PIL import Image

from media.errors import MediaError
from media.media_types import sniff
from media.reader import open_frames
from media.types import MediaOptions
from service.settings import Limits

CLIP = pattern(3, 64, 96)


def read(data: bytes, options: MediaOptions | None = None, limits: Limits | None = None) -> NDArray[np.uint8]:
    """Read all kept frames, under the service's limits if none are given."""
    return np.stack(list(open_frames(io.BytesIO(data), Limits() if limits is None else limits, options)))


def with_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The same mp4 with another display matrix, whose shift is left at zero."""
    start = mp4.index(b"tkhd") + 44
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return mp4[:start] + matrix + mp4[start + len(matrix) :]


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), CLIP),
        ((-1, 0, 0, 1), CLIP[:, :, ::-1]),
        ((1, 0, 0, -1), CLIP[:, ::-1]),
        ((-1, 0, 0, -1), CLIP[:, ::-1, ::-1]),
        ((0, 1, 1, 0), CLIP.swapaxes(1, 2)),
        ((0, -1, -1, 0), CLIP.swapaxes(1, 2)[:, ::-1, ::-1]),
        ((0, 1, -1, 0), np.rot90(CLIP, -1, (1, 2))),
        ((0, -1, 1, 0), np.rot90(CLIP, 1, (1, 2))),
    ],
)
def test_display_matrices_turn_and_mirror(matrix: tuple[int, int, int, int], shown: NDArray[np.uint8]) -> None:
    assert psnr(read(with_matrix(video(CLIP), *matrix)), shown) > 28


def with_aspect(aspect: str) -> bytes:
    """The clip as an mp4 whose pixels are not square."""
    sar = {"crf": "10", "preset": "ultrafast", "x264-params": f"sar={aspect}"}
    return video(CLIP, options=sar)


@pytest.mark.parametrize(("aspect", "size"), [("2\\:1", (64, 192)), ("1\\:2", (128, 96)), ("4\\:3", (64, 128))])
def test_pixels_come_out_square_and_nothing_shrinks(aspect: str, size: tuple[int, int]) -> None:
    data = with_aspect(aspect)
    shown = np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1])) for frame in CLIP])
    reader = open_frames(io.BytesIO(data), Limits(), None)
    assert psnr(np.stack(list(reader)), shown) > 28
    assert (reader.info().height, reader.info().width) == size
    turned = read(with_matrix(data, 0, 1, -1, 0))
    assert psnr(turned, np.rot90(shown, -1, (1, 2))) > 28
    assert read(data, MediaOptions(size=(64, 96), fit="cover")).shape == CLIP.shape


@pytest.mark.parametrize(
    "limits", [Limits(video_side=191), Limits(video_pixels=64 * 192 - 1), Limits(kept_pixels=64 * 192 - 1)]
)
def test_limits_hold_for_the_stretched_frame(limits: Limits) -> None:
    with pytest.raises(MediaError) as caught:
        read(with_aspect("2\\:1"), limits=limits)
    assert caught.value.code == "too-many-pixels"


EBML = b"\x1a\x45\xdf\xa3"


@pytest.mark.parametrize("doctype", [b"webm", b"webm\0", b"matroska", b"matroska\0\0"])
@pytest.mark.parametrize("before", [b"", b"\x42\x86\x81\x01\x42\xf7\x81\x01", b"\xec\x40\x50" + bytes(80)])
@pytest.mark.parametrize("wide", [False, True])
def test_the_doctype_stands_anywhere_in_its_header(doctype: bytes, before: bytes, wide: bool) -> None:
    size = b"\x10\0\0" + bytes([len(doctype)]) if wide else bytes([0x80 | len(doctype)])
    body = before + b"\x42\x82" + size + doctype + b"\x42\x87\x81\x04"
    head = EBML + b"\x01" + len(body).to_bytes(7, "big") + body
    assert sniff(head) == ("video/webm" if b"webm" in doctype else "video/x-matroska")


@pytest.mark.parametrize("body", [b"\x42\x82\x84evil", b"\x42\x86\x84webm", b"\x42\x82\xffwebm", b"\0\x42\x82\x84webm"])
def test_other_ebml_headers_are_nothing_to_us(body: bytes) -> None:
    assert sniff(EBML + bytes([0x80 | len(body)]) + body) is None


def test_a_padded_doctype_is_decoded() -> None:
    data = video(CLIP, container="matroska")
    at = data.index(b"\x42\x82\x88matroska")
    size = data[4:at].index(b"\x42\x86") + 4
    assert int.from_bytes(data[size - 1 : size], "big") & 0x7F  # the last byte of the header's size
    longer = (
        data[: size - 1] + bytes([data[size - 1] + 1]) + data[size:at] + b"\x42\x82\x89matroska\0" + data[at + 11 :]
    )
    assert read(longer).shape == CLIP.shape


@pytest.mark.parametrize("brand", [b"F4V ", b"NDSC", b"XAVC", b"MSNV", b"3gp5", b"caqv", b"dby1"])
def test_any_brand_of_a_clip_is_an_mp4(brand: bytes) -> None:
    data = video(CLIP)
    length = int.from_bytes(data[:4], "big")
    other = data[:8] + brand + data[12:16] + brand * ((length - 16) // 4) + data[length:]
    assert sniff(other) == "video/mp4"
    assert read(other).shape == CLIP.shape


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x14ftypheim\0\0\0\0heim",
        b"\0\0\0\x18ftypABCD\0\0\0\0ABCDmif1",
        b"\0\0\0\x14ftypcrx \0\0\0\x01crx ",
        b"\0\0\0\x08ftypabcd",
        b"\0\0\0\x14ftyp\x01\x02\x03\x04\0\0\0\0isom",
    ],
)
def test_brands_of_pictures_and_broken_boxes_are_nothing_to_us(head: bytes) -> None:
    assert sniff(head) is None
