"""Parts and colours of AVIF pictures, which boxes far from the pixels state."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from media_samples import animation, pattern, picture
from numpy.typing import NDArray

from media.avif import code_points, shown_properties
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions

PHOTO = pattern(1, 48, 64)[0]
STORED = picture(PHOTO, "AVIF", quality=100, subsampling="4:4:4")


def with_properties(data: bytes, *properties: tuple[bytes, bytes]) -> bytes:
    """Return a picture of one item with more of its properties, which all count."""
    made = bytearray(data)

    def grow(name: bytes, by: int) -> int:
        """Correct the size of a box, and return its former end."""
        at = made.index(name) - 4
        (size,) = struct.unpack_from(">I", made, at)
        struct.pack_into(">I", made, at, size + by)
        return at + size

    boxes = b"".join(struct.pack(">I4s", 8 + len(body), name) + body for name, body in properties)
    links = made.index(b"ipma") + 14
    count = made[links]
    made[links] = count + len(properties)
    end = grow(b"ipma", len(properties))
    made[end:end] = bytes(0x80 | count + 1 + number for number in range(len(properties)))
    end = grow(b"ipco", len(boxes))
    made[end:end] = boxes
    by = len(boxes) + len(properties)
    for name in (b"iprp", b"meta"):
        grow(name, by)
    place = made.index(b"iloc") + 18
    struct.pack_into(">I", made, place, struct.unpack_from(">I", made, place)[0] + by)
    return bytes(made)


def with_foreign_properties(data: bytes, item: int, *properties: tuple[bytes, bytes]) -> bytes:
    """Return a picture in front of whose properties stand those of another item; it has a handful of items."""
    start, end = (data.index(b"ipma") + by for by in (-4, 8))
    (size, count) = (struct.unpack(">I", data[at : at + 4])[0] for at in (start, end))
    at, table = end + 4, b""
    for _ in range(count):
        owner, places = struct.unpack_from(">HB", data, at)
        held = [place + len(properties) for place in data[at + 3 : at + 3 + places]]
        held += [0x81 + number for number in range(len(properties))] if owner == item else []
        table += struct.pack(">HB", owner, len(held)) + bytes(held)
        at += 3 + places
    boxes = b"".join(struct.pack(">I4s", 8 + len(body), name) + body for name, body in properties)
    made = bytearray(data[: start + 16] + table + data[start + size :])
    place = made.index(b"ipco") + 4
    made[place:place] = boxes
    by = len(made) - len(data)
    for name, grown in ((b"ipma", by - len(boxes)), (b"ipco", len(boxes)), (b"iprp", by), (b"meta", by)):
        at = made.index(name) - 4
        struct.pack_into(">I", made, at, struct.unpack_from(">I", made, at)[0] + grown)
    at = made.index(b"iloc") + 12
    for number in range(struct.unpack_from(">H", made, at - 2)[0]):  # each with one place of 4 bytes, and a size
        (offset,) = struct.unpack_from(">I", made, at + 14 * number + 6)
        struct.pack_into(">I", made, at + 14 * number + 6, offset + by)
    return bytes(made)


def clap(width: int, height: int, right: float = 0, down: float = 0, unit: int = 2) -> tuple[bytes, bytes]:
    numbers = (round(number * unit) for number in (width, height, right, down))
    return b"clap", b"".join(struct.pack(">2i", number, unit) for number in numbers)


def read(data: bytes, **options: object) -> NDArray[np.uint8]:
    reader = open_frames(io.BytesIO(data), MediaLimits(), MediaOptions(**options))  # type: ignore[arg-type]
    frames = np.stack(list(reader))
    assert (reader.info().height, reader.info().width) == frames.shape[1:3] or "size" in options
    return frames


WHOLE = read(STORED)[0]


def test_what_an_encoder_filled_up_is_not_shown() -> None:
    data = with_properties(STORED, clap(63, 47, -0.5, -0.5))
    assert np.array_equal(read(data)[0], WHOLE[:47, :63])
    assert np.array_equal(read(data, animated=True)[0], WHOLE[:47, :63])
    assert np.array_equal(read(with_properties(STORED, clap(40, 30, 3, -2)))[0], WHOLE[7:37, 15:55])


def test_it_is_cut_before_it_is_turned_and_resized() -> None:
    data = with_properties(STORED, clap(40, 30, 3, -2), (b"irot", b"\1"), (b"imir", b"\0"))
    shown = np.rot90(WHOLE[7:37, 15:55])[::-1]
    assert np.array_equal(read(data)[0], shown)
    assert np.array_equal(read(data, size=(20, 15)), read(picture(shown, "PNG"), size=(20, 15)))


@pytest.mark.parametrize(
    "aperture",
    [
        clap(65, 48),
        clap(64, 48, 1),
        clap(0, 48),
        clap(64, 48, unit=0),
        clap(-9, 48),
        clap(64, 48),
        clap(63, 47),
        clap(62.5, 48, -0.25, unit=4),
    ],
)
def test_nonsense_cuts_nothing(aperture: tuple[bytes, bytes]) -> None:
    assert np.array_equal(read(with_properties(STORED, aperture))[0], WHOLE)


def test_frames_of_an_animation_are_whole_without_it() -> None:
    assert read(animation(pattern(3, 48, 64), "AVIF"), animated=True).shape == (3, 48, 64, 3)


PQ = b"colr", b"nclx" + struct.pack(">3HB", 9, 16, 9, 0x80)
HALF = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 128, np.uint8)])


def test_properties_of_other_items_do_not_count() -> None:
    depth = picture(HALF, "AVIF", quality=100, subsampling="4:4:4").replace(b"auxiliary:alpha", b"auxiliary:depth")
    whole = read(depth)[0]
    changed = with_foreign_properties(depth, 2, clap(40, 30, 3, -2), PQ)
    assert np.array_equal(read(changed)[0], whole)
    assert np.array_equal(read(changed, animated=True)[0], whole)
    assert np.array_equal(read(with_foreign_properties(depth, 1, clap(40, 30, 3, -2)))[0], whole[7:37, 15:55])


def test_properties_are_found_behind_a_large_profile() -> None:
    data = picture(PHOTO, "AVIF", quality=100, subsampling="4:4:4", icc_profile=bytes(100_000))
    assert read(with_properties(data, clap(40, 30, 3, -2))).shape == (1, 30, 40, 3)


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("stated", [False, True])
def test_a_picture_of_tiles_has_their_colours_unless_it_states_its_own(wide: bool, stated: bool) -> None:
    number, full = ("I", b"\1\0\0\0") if wide else ("H", bytes(4))
    own, tile, other = ((b"nclx" + struct.pack(">3HB", primaries, 13, 6, 0x80)) for primaries in (1, 12, 9))
    places = {1: (1,), 2: (2,), 3: (3,) if stated else ()}
    table = b"".join(
        struct.pack(f">{number}B", item, len(held)) + bytes(0x80 | place for place in held)
        for item, held in places.items()
    )
    shared = box(b"ipco", *(box(b"colr", colours) for colours in (other, tile, own)))
    made = box(b"ftyp", b"avif", bytes(4)) + box(
        b"meta",
        bytes(4),
        box(b"pitm", full, struct.pack(">" + number, 3)),
        box(b"iref", full, box(b"dimg", struct.pack(f">{number}H2{number}", 3, 2, 2, 2))),
        box(b"iprp", shared, box(b"ipma", full, struct.pack(">I", len(places)), table)),
    )
    points = code_points(shown_properties(made))
    assert points is not None
    assert points.primaries == (1 if stated else 12)


@pytest.mark.parametrize(
    "data", [b"", STORED[:100], STORED.replace(b"ipma", b"free"), STORED.replace(b"pitm", b"free")]
)
def test_a_damaged_file_states_nothing(data: bytes) -> None:
    assert code_points(shown_properties(data)) is None
