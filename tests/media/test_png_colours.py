"""Colour spaces of PNG without a profile: gAMA and cHRM, and what outranks them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from test_image_cases import chunk, png, profile

from media.limits import MediaLimits
from media.reader import open_frames

CODES = (60, 128, 200)
SRGB = chunk(b"sRGB", b"\0")
WHITE, BT709 = (31270, 32900), (64000, 33000, 30000, 60000, 15000, 6000)
DISPLAY_P3 = (68000, 32000, 26500, 69000, 15000, 6000)


def gama(exponent: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", exponent))


def chrm(white: tuple[int, ...], primaries: tuple[int, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *white, *primaries))


def cicp(*points: int) -> bytes:
    return chunk(b"cICP", bytes([*points, 0, 1]))


def iccp(body: bytes) -> bytes:
    return chunk(b"iCCP", b"name\0\0" + zlib.compress(body))


def shown(extra: bytes, colours: tuple[int, ...] = CODES) -> list[int]:
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[len(colours)]
    reader = open_frames(io.BytesIO(png(8, 8, 8, kind, bytes(colours) * 8, extra)), MediaLimits())
    return next(iter(reader))[0, 0].tolist()


def encoded(light: float) -> float:
    return 255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055)


def near(one: list[int], other: list[float]) -> bool:
    return bool(np.abs(np.subtract(one, other)).max() <= 1)


@pytest.mark.parametrize("exponent", [100_000, 55_556, 70_000, 30_000])
def test_the_gamma_of_a_png_applies(exponent: int) -> None:
    expected = [encoded((code / 255) ** (100_000 / exponent)) for code in CODES]
    assert near(shown(gama(exponent)), expected)
    assert near(shown(gama(exponent) + chrm(WHITE, BT709)), expected)
    assert near(shown(gama(exponent), CODES[1:2]), expected[1:2] * 3)  # grey
    assert near(shown(gama(exponent), (*CODES, 0)), [255] * 3)  # transparent


@pytest.mark.parametrize("white", [WHITE, (34567, 35850)])
def test_primaries_of_a_png_keep_its_white(white: tuple[int, ...]) -> None:
    extra = gama(100_000) + chrm(white, DISPLAY_P3)
    assert near(shown(extra, (128, 128, 128)), [188] * 3)
    red, *others = shown(extra, (128, 20, 20))
    assert red > shown(gama(100_000), (128, 20, 20))[0]
    assert max(others) < 80


def test_primaries_of_a_png_are_those_of_code_points() -> None:
    assert near(shown(gama(45_455) + chrm(WHITE, DISPLAY_P3)), shown(cicp(12, 13)))


@pytest.mark.parametrize(
    "extra",
    [
        gama(45_455),
        gama(45_455) + chrm(WHITE, BT709),
        SRGB + gama(100_000),
        cicp(1, 13) + gama(100_000),
        cicp(1, 13) + iccp(profile(b"RGB ")),
        chrm(WHITE, DISPLAY_P3),  # without a gamma
        gama(0),
        gama(45_455) + chrm((0, 0), (0,) * 6),
    ],
)
def test_these_colours_are_srgb(extra: bytes) -> None:
    assert shown(extra) == list(CODES)


def test_a_profile_outranks_a_gamma() -> None:
    assert near(shown(iccp(profile(b"RGB ")) + gama(45_455), (128, 128, 128)), [188] * 3)


@pytest.mark.parametrize(("transfer", "power"), [(4, 2.2), (5, 2.8), (8, 1.0)])
def test_powers_of_code_points_apply(transfer: int, power: float) -> None:
    expected = [encoded((code / 255) ** power) for code in CODES]
    assert near(shown(cicp(1, transfer)), expected)
    assert near(shown(cicp(1, transfer), CODES[1:2]), expected[1:2] * 3)  # grey
    grey = [encoded((128 / 255) ** power)] * 3
    assert near(shown(cicp(12, transfer), (128, 128, 128)), grey)  # of other primaries
