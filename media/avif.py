"""The boxes that say how the picture of an AVIF is shown; the file has those of thumbnails, tiles and gain maps too."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import reduce

from media.animation_index import content_of
from media.colour import CodePoints
from media.faststart import boxes
from media.orientation import Crop

_FULL = 4  # bytes of version and flags, before the content of some boxes
_SAMPLES_HEAD, _SAMPLE_HEAD = 8, 86  # bytes before the first format of a track, and before its boxes
_TRACK = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_CODE_POINTS, _APERTURE = b"colrnclx", b"clap"


def shown_properties(data: bytes) -> dict[bytes, bytes]:
    """Return the boxes that hold for the picture that is shown, or for all frames of an animation.

    Args:
        data: the whole file.

    Returns:
        Their contents by their kind, which of colours includes the first four bytes; none if the file is damaged.
    """
    with suppress(struct.error, IndexError):
        # As libavif decides: still pictures may have a track besides.
        samples = b"" if data[8:12] == b"avif" else reduce(content_of, _TRACK, data)
        if samples:
            (size,) = struct.unpack_from(">I", samples, _SAMPLES_HEAD)
            return dict(map(_named, _inside(samples[_SAMPLES_HEAD + _SAMPLE_HEAD : _SAMPLES_HEAD + size])))
        meta = content_of(data, b"meta")[_FULL:]
        primary = content_of(meta, b"pitm")
        (item,) = struct.unpack_from(">I" if primary[0] else ">H", primary, _FULL)
        shared = content_of(meta, b"iprp")
        known = list(_inside(content_of(shared, b"ipco")))
        tile = _first_tile(content_of(meta, b"iref"), item)
        found: dict[bytes, bytes] = {}
        for table in (content for kind, content in _inside(shared) if kind == b"ipma"):
            for owner, places in _associations(table):
                if owner not in (item, tile):
                    continue
                held = dict(_named(known[place - 1]) for place in reversed(places) if 0 < place <= len(known))
                if owner == item:
                    found |= held
                elif _CODE_POINTS in held:  # where the whole says nothing of its colours
                    found = {_CODE_POINTS: held[_CODE_POINTS]} | found
        return found
    return {}


def code_points(properties: Mapping[bytes, bytes]) -> CodePoints | None:
    """Return the colour space that the properties of a picture state, if any."""
    stated = properties.get(_CODE_POINTS, b"")
    return CodePoints(*struct.unpack_from(">2H", stated, 4)) if len(stated) >= 8 else None


def clean_aperture(properties: Mapping[bytes, bytes], height: int, width: int) -> Crop:
    """Return the edges of a stored (height, width) picture that are not shown: some encoders fill pictures up.

    Args:
        properties: of the picture.
    """
    stated = properties.get(_APERTURE, b"")
    numbers = struct.unpack(">8i", stated) if len(stated) == 32 else (0,) * 8
    if 0 in numbers[1::2]:
        return Crop()
    columns, rows, right, down = map(Fraction, numbers[::2], numbers[1::2])
    left, top = (width - columns) / 2 + right, (height - rows) / 2 + down
    edges = left, top, width - left - columns, height - top - rows
    # Decoders ignore an aperture that is not of whole pixels inside of the picture.
    is_sound = all(edge >= 0 and edge.denominator == 1 for edge in edges)
    return Crop(*map(int, edges)) if is_sound else Crop()


def _inside(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and content of each box."""
    return ((kind, data[at + 8 : at + size]) for kind, at, size in boxes(io.BytesIO(data), len(data)))


def _named(box: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    kind, content = box
    return (kind + content[:4] if kind == b"colr" else kind), content


def _associations(table: bytes) -> Iterator[tuple[int, list[int]]]:
    """Yield each item of a table, and the places of its properties from 1 on."""
    wide_item, wide_place = table[0] > 0, table[3] & 1
    (count,) = struct.unpack_from(">I", table, _FULL)
    at = _FULL + 4
    for _ in range(count):
        item, places = struct.unpack_from(">IB" if wide_item else ">HB", table, at)
        at += 5 if wide_item else 3
        held = struct.unpack_from(f">{places}{'H' if wide_place else 'B'}", table, at)
        at += places * (2 if wide_place else 1)
        yield item, [place & (0x7FFF if wide_place else 0x7F) for place in held]


def _first_tile(references: bytes, item: int) -> int | None:
    """Return the first item that a picture of several tiles is made of."""
    form = "I" if references[:1] > b"\0" else "H"
    for kind, content in _inside(references[_FULL:]):
        if kind == b"dimg":
            owner, _, tile = struct.unpack_from(f">{form}H{form}", content)
            if owner == item:
                return int(tile)
    return None
