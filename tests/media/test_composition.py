"""Frames of animations that change parts of the canvas, composed as browsers do."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import pytest
from media_samples import saved
from numpy.typing import NDArray
from PIL import Image

from media.errors import MediaError
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions

SIDE = 16
PALETTE = np.array([(0, 0, 0), (220, 20, 20), (20, 220, 20), (20, 20, 220)])
WHITE, RED, GREEN, BLUE = (255, 255, 255), *map(tuple, PALETTE[1:].tolist())


class Change(NamedTuple):
    """A rectangle of one colour, 0 to 3 for GIF or samples for PNG, and what becomes of it."""

    left: int
    top: int
    width: int
    height: int
    colour: tuple[int, ...] | int
    disposal: int = 0
    blend: int = 1


def read(data: bytes, animated: bool = True) -> NDArray[np.uint8]:
    return np.stack(list(open_frames(io.BytesIO(data), MediaLimits(), MediaOptions(animated=animated))))


def gif(*changes: Change, key: int | None = None) -> bytes:
    """An animation of SIDE x SIDE; background colour 1, which browsers ignore."""
    data = b"GIF89a" + struct.pack("<2H3B", SIDE, SIDE, 0xF1, 1, 0) + PALETTE.astype(np.uint8).tobytes()
    for change in changes:
        assert isinstance(change.colour, int)
        data += b"!\xf9\4" + struct.pack("<BHBB", change.disposal << 2 | (key is not None), 10, key or 0, 0)
        data += b"," + struct.pack("<4HB", *change[:4], 0) + b"\2"
        # Codes of three bits: each pixel behind a code that clears the table, so that none grows.
        codes = [4, change.colour] * (change.width * change.height) + [5]
        packed = np.packbits([code >> bit & 1 for code in codes for bit in range(3)], bitorder="little").tobytes()
        data += b"".join(
            bytes([len(part)]) + part for part in (packed[i : i + 255] for i in range(0, len(packed), 255))
        )
        data += b"\0"
    return data + b";"


def png(*changes: Change, hidden: bool) -> bytes:
    """An animation of SIDE x SIDE, perhaps behind a hidden picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def pixels(width: int, height: int, colour: tuple[int, ...]) -> bytes:
        return zlib.compress((b"\0" + bytes(colour) * width) * height)

    samples = len(changes[0].colour)  # type: ignore[arg-type]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", SIDE, SIDE, 8, kind, 0, 0, 0))
    data += chunk(b"acTL", struct.pack(">2I", len(changes), 0))
    if hidden:
        data += chunk(b"IDAT", pixels(SIDE, SIDE, (9,) * samples))
    number = 0
    for index, (left, top, width, height, colour, disposal, blend) in enumerate(changes):
        assert isinstance(colour, tuple)
        control = struct.pack(">5I2H2B", number, width, height, left, top, 1, 10, disposal, blend)
        data += chunk(b"fcTL", control)
        body = pixels(width, height, colour)
        is_first = index == 0 and not hidden
        data += chunk(b"IDAT", body) if is_first else chunk(b"fdAT", struct.pack(">I", number + 1) + body)
        number += 1 if is_first else 2
    return data + chunk(b"IEND", b"")


def shown(changes: list[Change]) -> NDArray[np.float64]:
    """Return the frames by the specification of animated PNG, on white, in floating point: (T, SIDE, SIDE, C)."""
    samples = len(changes[0].colour)  # type: ignore[arg-type]
    has_alpha = samples % 2 == 0
    canvas = np.zeros((SIDE, SIDE, samples + (not has_alpha)))
    frames = []
    for left, top, width, height, colour, disposal, blend in changes:
        before = canvas.copy()
        part = canvas[top : top + height, left : left + width]
        source = np.array(colour if has_alpha else (*colour, 255), float)  # type: ignore[misc]
        if blend:
            alpha, below = source[-1] / 255, part[..., -1:] / 255
            total = alpha + below * (1 - alpha)
            mixed = source[:-1] * alpha + part[..., :-1] * below * (1 - alpha)
            part[..., :-1] = np.divide(mixed, total, out=np.zeros_like(mixed), where=total > 0)
            part[..., -1:] = total * 255
        else:
            part[:] = source
        alpha = canvas[..., -1:] / 255
        frames.append(canvas[..., :-1] * alpha + 255 * (1 - alpha))
        if disposal == 1:
            part[:] = 0
        elif disposal == 2:
            canvas = before
    return np.array(frames)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_a_png_follows_its_specification(samples: int, hidden: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    changes = []
    for _ in range(8):
        left, top = random.integers(0, SIDE - 1, 2).tolist() if changes else (0, 0)
        width, height = (int(random.integers(1, SIDE - at + 1)) for at in (left, top)) if changes else (SIDE, SIDE)
        colour = random.integers(0, 256, samples)
        if samples % 2 == 0:
            colour[-1] = random.choice([0, 128, 255])
        disposal, blend = random.integers(0, 3), random.integers(0, 2)
        changes.append(Change(left, top, width, height, tuple(colour.tolist()), int(disposal), int(blend)))
    assert np.abs(read(png(*changes, hidden=hidden)) - shown(changes)).max() <= 2


def webp(*changes: Change) -> bytes:
    """An animation of SIDE x SIDE without the flag of alpha; its background colour is opaque black."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    def three(number: int) -> bytes:
        return number.to_bytes(3, "little")

    body = chunk(b"VP8X", bytes([2, 0, 0, 0]) + three(SIDE - 1) * 2) + chunk(b"ANIM", b"\0\0\0\xff\0\0")
    for change in changes:
        file = saved(Image.new("RGB", change[2:4], change.colour), "WEBP", lossless=True)
        place = three(change.left // 2) + three(change.top // 2) + three(change.width - 1) + three(change.height - 1)
        body += chunk(b"ANMF", place + three(100) + bytes([change.disposal]) + file[12:])
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize(
    ("changes", "corners"),
    [
        ([Change(0, 0, 16, 16, RED, 1), Change(8, 8, 8, 8, BLUE)], (WHITE, BLUE)),
        ([Change(0, 0, 16, 16, RED, 0), Change(8, 8, 8, 8, BLUE)], (RED, BLUE)),
        ([Change(8, 8, 8, 8, BLUE)], (WHITE, BLUE)),
    ],
)
def test_a_webp_shows_the_page_where_nothing_is(changes: list[Change], corners: tuple[tuple[int, ...], ...]) -> None:
    data = webp(*changes)
    frame = read(data)[-1]
    assert (frame[:8, :8] == corners[0]).all()
    assert (frame[8:, 8:] == corners[1]).all()
    assert np.array_equal(read(data, animated=False)[0], read(data)[0])


@pytest.mark.parametrize("key", [None, 0])
@pytest.mark.parametrize(
    ("changes", "corners"),
    [
        # What disappears uncovers the page, never the background colour.
        ([Change(0, 0, 16, 16, 2), Change(0, 0, 8, 8, 3, 2), Change(8, 8, 8, 8, 1)], (WHITE, RED)),
        ([Change(0, 0, 16, 16, 2), Change(0, 0, 8, 8, 3, 3), Change(8, 8, 8, 8, 1)], (GREEN, RED)),
        ([Change(0, 0, 16, 16, 2), Change(0, 0, 8, 8, 3, 4), Change(8, 8, 8, 8, 1)], (GREEN, RED)),
        ([Change(0, 0, 8, 8, 2, 3), Change(8, 8, 8, 8, 3)], (WHITE, BLUE)),
        # A frame that does not say how it disappears stays, whatever the one before it did.
        ([Change(0, 0, 16, 16, 2, 2), Change(0, 0, 16, 16, 3, 0), Change(8, 8, 8, 8, 1)], (BLUE, RED)),
        # The first frame need not fill the canvas, and none grows it.
        ([Change(8, 8, 8, 8, 2)], (WHITE, GREEN)),
        ([Change(0, 0, 16, 16, 2), Change(8, 8, 16, 16, 3)], (GREEN, BLUE)),
        ([Change(0, 0, 16, 16, 2), Change(0, 0, 0, 0, 1), Change(8, 8, 8, 8, 3)], (GREEN, BLUE)),  # an empty one
    ],
)
def test_a_gif_shows_what_browsers_show(
    changes: list[Change], corners: tuple[tuple[int, ...], ...], key: int | None
) -> None:
    data = gif(*changes, key=key)
    frame = read(data)[-1]
    assert frame.shape == (SIDE, SIDE, 3)
    assert (frame[:8, :8] == corners[0]).all()
    assert (frame[8:, 8:] == corners[1]).all()
    assert np.array_equal(read(data, animated=False)[0], read(data)[0])


def test_an_animation_without_frames_is_refused() -> None:
    data = png(Change(0, 0, SIDE, SIDE, RED), hidden=True).replace(b"fdAT", b"fdaT")
    with pytest.raises(MediaError, match="corrupt-media"):
        read(data)
    assert (read(data, animated=False) == 9).all()


def test_a_gif_may_begin_in_grey() -> None:
    palette, place = PALETTE.astype(np.uint8).tobytes(), b"," + struct.pack("<4H", 8, 8, 8, 8)
    data = gif(Change(0, 0, 16, 16, 2), Change(8, 8, 8, 8, 1))
    data = data.replace(palette, bytes(number // 3 for number in range(12)))
    data = data.replace(place + b"\0", place + b"\x81" + palette)
    assert Image.open(io.BytesIO(data)).mode == "L"
    grey, changed = read(data)
    assert (grey == 2).all()
    assert (changed[:8] == 2).all()
    assert (changed[8:, 8:] == RED).all()


def test_a_missing_end_costs_no_frame() -> None:
    changes = [Change(0, 0, 16, 16, 1), Change(8, 8, 8, 8, 3)]
    whole = gif(*changes)
    for data in (whole[:-1], whole[:-2]):  # without the end of the file, and of the last frame
        assert np.array_equal(read(data), read(whole))
    still = gif(changes[0])
    assert np.array_equal(read(still[:-2], animated=False), read(still, animated=False))
    whole = png(*(change._replace(colour=(grey,)) for change, grey in zip(changes, (7, 21), strict=True)), hidden=False)
    assert np.array_equal(read(whole[:-12]), read(whole))
