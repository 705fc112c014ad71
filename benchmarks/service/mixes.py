"""Named mixes of requests, built from a seed; no two requests of a run are equal, so that no cache answers them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from service.formats.media_types import JSON, MSGPACK
from service.formats.msgpack import pack
from service.formats.tensors import pack_tensor

JPEG = "image/jpeg"
JPEG_QUALITY = 90
BODIES = 16  # different contents of each kind, all held in memory
STAMP_DIGITS = 10
STAMP = b"1" + b"0" * (STAMP_DIGITS - 1)
BULK_ITEMS = 16
DETAIL_PIXELS = 8  # side of the squares of one colour in a picture


@dataclass(frozen=True)
class Template:
    """One HTTP request around `STAMP_DIGITS` digits that number it.

    Args:
        before, after: the bytes on both sides of the digits, head included.
    """

    before: bytes
    after: bytes

    def stamped(self, number: int) -> tuple[bytes, bytes, bytes]:
        """Return the request with this number in it, as parts to send together."""
        return self.before, b"1%0*d" % (STAMP_DIGITS - 1, number % 10 ** (STAMP_DIGITS - 1)), self.after


@dataclass(frozen=True)
class Kind:
    """Requests of one kind.

    Args:
        path: of the request.
        content_type, accept: its headers.
        body: makes a body that contains `STAMP` once, from a generator.
        items: of a body.
    """

    path: str
    content_type: str
    accept: str
    body: Callable[[np.random.Generator], bytes]
    items: int = 1

    def templates(self, host: str, headers: Sequence[str], seed: int) -> list[Template]:
        """Return `BODIES` requests.

        Args:
            host: value of the header `Host`.
            headers: further lines of the head, such as `Authorization: Bearer KEY`.
            seed: of their contents.
        """
        rng = np.random.default_rng(seed)
        return [self._template(host, headers, self.body(rng)) for _ in range(BODIES)]

    def _template(self, host: str, headers: Sequence[str], body: bytes) -> Template:
        lines = (
            f"POST {self.path} HTTP/1.1",
            f"Host: {host}",
            f"Content-Type: {self.content_type}",
            f"Accept: {self.accept}",
            f"Content-Length: {len(body)}",
            *headers,
        )
        before, _, after = body.partition(STAMP)
        return Template("\r\n".join([*lines, "", ""]).encode() + before, after)


@dataclass(frozen=True)
class Mix:
    """Kinds of requests by share.

    Args:
        kinds: names in `KINDS` with their shares, which sum to 1.
        bursts: arrivals come in bursts, else evenly at random.
    """

    kinds: dict[str, float]
    bursts: bool = False

    @property
    def items(self) -> float:
        """Return the mean items of a request."""
        return sum(share * KINDS[name].items for name, share in self.kinds.items())


def _raw(rng: np.random.Generator, frames: int, side: int) -> bytes:
    pixels = rng.integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    pixels.reshape(-1)[:STAMP_DIGITS] = np.frombuffer(STAMP, np.uint8)
    return pack({"array": pack_tensor(pixels)})


def _bulk(rng: np.random.Generator, count: int, side: int) -> bytes:
    pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    pixels.reshape(-1)[:STAMP_DIGITS] = np.frombuffer(STAMP, np.uint8)
    return pack({"items": [{"array": pack_tensor(picture)} for picture in pixels]})


def _jpeg(rng: np.random.Generator, side: int) -> bytes:
    coarse = rng.integers(0, 256, (side // DETAIL_PIXELS, side // DETAIL_PIXELS, 3), dtype=np.uint8)
    data = io.BytesIO()
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    picture.save(data, "JPEG", quality=JPEG_QUALITY, comment=STAMP)
    return data.getvalue()


def _generate(_: np.random.Generator) -> bytes:
    return b'{"class": 0, "n": 1, "seed": %s}' % STAMP


KINDS = {
    "img256": Kind("/encode", MSGPACK, MSGPACK, lambda rng: _raw(rng, 1, 256)),
    "jpeg256": Kind("/encode", JPEG, MSGPACK, lambda rng: _jpeg(rng, 256)),
    "clip17": Kind("/encode", MSGPACK, MSGPACK, lambda rng: _raw(rng, 17, 128)),
    "img128": Kind("/encode", MSGPACK, MSGPACK, lambda rng: _raw(rng, 1, 128)),
    "bulk256": Kind("/encode", MSGPACK, MSGPACK, lambda rng: _bulk(rng, BULK_ITEMS, 256), BULK_ITEMS),
    "generate": Kind("/generate", JSON, "image/png", _generate),
}
MIXES = {name: Mix({name: 1.0}) for name in KINDS} | {
    "mix80/20": Mix({"img256": 0.8, "clip17": 0.2}),
    "burst": Mix({"img256": 1.0}, bursts=True),
}
