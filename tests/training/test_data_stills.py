"""Still images of every kind become upright RGB squares; bombs and broken files are refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.data.stills import square
from training.errors import TrainingError

SIDE = 32


def encoded(image: Image.Image, suffix: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def quarters(width: int = 128, height: int = 128) -> Image.Image:
    """Red, green; blue, white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 255, 0, 0
    pixels[: height // 2, width // 2 :] = 0, 255, 0
    pixels[height // 2 :, : width // 2] = 0, 0, 255
    pixels[height // 2 :, width // 2 :] = 255
    return Image.fromarray(pixels)


def corners(pixels: np.ndarray) -> list[list[int]]:
    at = SIDE // 4, 3 * SIDE // 4
    return [pixels[row, column].tolist() for row in at for column in at]


MODES = {
    "PNG": ("RGB", "RGBA", "P", "L", "LA", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "RGBA", "P", "L", "1"),
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_every_mode_becomes_rgb(suffix: str, mode: str) -> None:
    image = quarters()
    if mode == "I;16":
        image = Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) << 8) + 17)
    else:
        image = image.convert(mode)
    made = square(encoded(image, suffix), SIDE, 0.5)
    assert made.dtype == np.uint8
    assert made.shape == (SIDE, SIDE, 3)
    grey = mode in ("L", "LA", "1", "I;16")
    wanted = np.asarray(quarters().convert("1" if mode == "1" else "L").convert("RGB") if grey else quarters())
    small = wanted.reshape(SIDE, 4, SIDE, 4, 3).mean((1, 3))
    inside = np.ix_([4, 12, 20, 28], [4, 12, 20, 28])
    if mode != "1":  # its dots are only grey from afar
        assert np.abs(made[inside].astype(float) - small[inside]).max() < 12
    assert abs(float(made.mean()) - float(small.mean())) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(orientation: int) -> None:
    """All eight stored forms of one picture look the same."""
    back: dict[int, Image.Transpose | None] = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image, turn = quarters(), back[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if turn is None else image.transpose(turn)
    made = square(encoded(stored, "PNG", exif=exif), SIDE, 0.5)
    assert corners(made) == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


def test_transparency_shows_white_and_does_not_bleed() -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, 32:] = 0, 0, 255, 255  # the left half is black and invisible
    made = square(encoded(Image.fromarray(pixels), "PNG"), SIDE, 0.5)
    assert made[:, :12].min() == 255
    assert (made[:, 20:] == (0, 0, 255)).all()
    assert made[:, :, 2].min() == 255  # no black in between


@pytest.mark.parametrize(("width", "height"), [(192, 64), (64, 192)])
def test_the_square_moves_along_the_longer_side(width: int, height: int) -> None:
    line = np.arange(192, dtype=np.uint8)
    pixels = np.broadcast_to(line if width > height else line[:, None], (height, width))
    data = encoded(Image.fromarray(np.ascontiguousarray(pixels)), "PNG")
    for where in (0.0, 0.25, 1.0):
        made = square(data, 64, where)[..., 0]
        first = made[0, 0]
        assert first == 128 * where
        assert (
            made == np.broadcast_to(first + line[:64] if width > height else (first + line[:64])[:, None], (64, 64))
        ).all()


def test_reduction_is_antialiased_by_every_route() -> None:
    """A fine chessboard becomes even grey, through JPEG's own reduction as through resizing."""
    board = Image.fromarray((np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8))
    for suffix in ("PNG", "JPEG"):
        made = square(encoded(board, suffix), 48, 0.5).astype(int)
        assert np.abs(made - 128).max() <= 6, suffix


def test_jpegs_reduced_while_decoding_look_as_those_decoded_whole() -> None:
    row = np.linspace(0, 6, 512)
    pixels = np.stack([128 + 100 * np.sin(row + shift)[None] * np.cos(row)[:, None] for shift in range(3)], -1)
    image = Image.fromarray(pixels.astype(np.uint8))
    jpeg, png = (square(encoded(image, suffix), 64, 0.5).astype(int) for suffix in ("JPEG", "PNG"))
    assert np.abs(jpeg - png).mean() < 1.5


def test_small_images_are_enlarged() -> None:
    assert corners(square(encoded(quarters(8, 8), "PNG"), SIDE, 0.5)) == [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255] * 3,
    ]


def test_decompression_bombs_are_refused_by_their_header() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    with pytest.raises(TrainingError, match="10000x10000 pixels are too many"):
        square(bomb, SIDE, 0.5)


@pytest.mark.parametrize("data", [b"hello, I am a text file", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(Exception, match=r"none of JPEG|broken|truncated"):
        square(data, SIDE, 0.5)


def test_truncated_images_are_refused() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for suffix in ("PNG", "JPEG"):
        data = encoded(noise, suffix)
        with pytest.raises(Exception, match=r"truncated|broken|incomplete"):
            square(data[: len(data) // 2], SIDE, 0.5)
