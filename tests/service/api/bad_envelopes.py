"""Requests whose path, headers, length, pace or options are wrong."""

from __future__ import annotations

import gzip

import numpy as np
from api_media import clip, picture, scene
from bad_case import (
    FORM,
    JSON,
    MP4,
    MSGPACK,
    OCTETS,
    PNG,
    Case,
    Target,
    codes,
    packed,
    raw,
)

from service.formats.tensors import pack_tensor

GZIP = {"Content-Encoding": "gzip"}


def chunked_bomb(target: Target) -> list[bytes]:
    data = gzip.compress(bytes(2**26))
    return [data[start : start + 1000] for start in range(0, len(data), 1000)]


NINE = np.zeros((1, 2, 2), "<u2")

ENVELOPES = [
    Case("unknown path", 404, "not-found", "/nothing", raw(b""), method="GET"),
    Case("unknown path under /v1", 404, "not-found", "/v1/nothing", raw(b""), method="GET"),
    Case("GET of a POST route", 405, "method-not-allowed", "/encode", raw(b""), method="GET"),
    Case("DELETE of a GET route", 405, "method-not-allowed", "/models", raw(b""), method="DELETE"),
    Case("unknown model of /models", 404, "unknown-model", "/models/etc-passwd", raw(b""), method="GET"),
    Case("unknown problem", 404, "not-found", "/problems/none", raw(b""), method="GET"),
    Case("text body", 415, "unsupported-media-type", "/encode", raw(b"hello"), {"Content-Type": "text/plain"}),
    Case(
        "form-encoded body",
        415,
        "unsupported-media-type",
        "/encode",
        raw(picture),
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    Case("media sent to decode", 415, "unsupported-media-type", "/decode", raw(picture), PNG),
    Case("brotli", 415, "unsupported-encoding", "/encode", raw(picture), PNG | {"Content-Encoding": "br"}),
    Case("gzip twice", 415, "unsupported-encoding", "/encode", raw(picture), PNG | {"Content-Encoding": "gzip, gzip"}),
    Case("gzip that is none", 400, "malformed-body", "/encode", raw(picture), PNG | GZIP),
    Case("gzip cut off", 400, "malformed-body", "/encode", raw(lambda: gzip.compress(picture())[:-4]), PNG | GZIP),
    Case(
        "gzip with a tail", 400, "malformed-body", "/encode", raw(lambda: gzip.compress(picture()) + b"x"), PNG | GZIP
    ),
    Case("gzip of nothing", 400, "malformed-body", "/encode", raw(gzip.compress(b"")), PNG | GZIP),
    Case("gzip bomb", 413, "body-too-large", "/encode", raw(lambda: gzip.compress(bytes(2**26))), PNG | GZIP),
    Case("gzip bomb in chunks", 413, "body-too-large", "/decode", chunked_bomb, MSGPACK | GZIP),
    Case("nonsense in Accept", 400, "bad-header", "/encode", raw(picture), PNG | {"Accept": "nonsense"}),
    Case("q over 1", 400, "bad-header", "/encode", raw(picture), PNG | {"Accept": "*/*;q=2"}),
    Case("html wanted", 406, "not-acceptable", "/encode", raw(picture), PNG | {"Accept": "text/html"}),
    Case("all refused", 406, "not-acceptable", "/encode", raw(picture), PNG | {"Accept": "*/*;q=0"}),
    Case("clip as png", 406, "not-acceptable", "/reconstruct", raw(clip), MP4 | {"Accept": "image/png"}),
    Case(
        "too much for JSON",
        406,
        "not-acceptable",
        "/encode?size=256",
        raw(picture),
        PNG | {"Accept": "application/json"},
    ),
    Case(
        "latents as npy",
        406,
        "not-acceptable",
        "/encode?output=latents",
        raw(picture),
        PNG | {"Accept": "application/x-npy"},
    ),
    Case("empty body", 400, "malformed-body", "/encode", raw(b""), PNG),
    Case("empty chunked body", 400, "malformed-body", "/encode", lambda target: [], PNG),
    Case("picture over its bytes", 413, "body-too-large", "/encode", raw(bytes(200_001)), PNG),
    Case("video over its bytes", 413, "body-too-large", "/encode", raw(bytes(400_001)), MP4),
    Case("chunked, over its bytes", 413, "body-too-large", "/encode", lambda target: [bytes(50_000)] * 9, PNG),
    Case("sniffed, over its bytes", 413, "body-too-large", "/encode", lambda target: [bytes(50_000)] * 9, OCTETS),
    Case(
        "sniffed picture, over a picture's bytes",
        413,
        "body-too-large",
        "/encode",
        raw(lambda: picture() + bytes(200_000)),
        OCTETS,
    ),
    Case("JSON over its bytes", 413, "body-too-large", "/encode", raw(b" " * 100_001), JSON),
    Case("msgpack over its bytes", 413, "body-too-large", "/encode", raw(bytes(400_001)), MSGPACK),
    Case("multipart over its bytes", 413, "body-too-large", "/encode", lambda target: [bytes(60_000)] * 9, FORM),
    Case(
        "msgpack with a picture over its bytes",
        413,
        "body-too-large",
        "/encode",
        packed(media=picture() + bytes(200_000)),
        MSGPACK,
    ),
    Case("ten terabytes announced", 413, "body-too-large", "/encode", raw(b"x"), PNG, length=10**13),
    Case("body that never ends", 408, "slow-body", "/encode", raw(picture), PNG, length=100_000),
    Case("tokens that never end", 408, "slow-body", "/decode", codes(NINE), MSGPACK, length=100_000),
]


def _options(name: str, query: str, status: int = 422, code: str = "invalid-options") -> Case:
    return Case(name, status, code, f"/encode?{query}", raw(picture), PNG)


OPTIONS = [
    _options("unknown option", "colour=red"),
    _options("option twice", "size=32&size=64"),
    _options("unknown model", "model=../../etc/passwd", 404, "unknown-model"),
    _options("size 0", "size=0"),
    _options("negative size", "size=-8"),
    _options("size in words", "size=large"),
    _options("size with three sides", "size=8x8x8"),
    _options("huge size", "size=999999999999999999999999"),
    _options("size over the model's pixels", "size=1024", 422, "too-many-pixels"),
    _options("no frames", "frames=0"),
    _options("a billion frames", "frames=1000000000"),
    _options("frames in words", "frames=many"),
    _options("frames with a fraction", "frames=2.5"),
    _options("stride without its sampling", "stride=2"),
    _options("NaN seconds", "start_s=nan"),
    _options("infinite seconds", "end_s=inf"),
    _options("negative seconds", "start_s=-1"),
    _options("end before start", "start_s=2&end_s=1"),
    _options("unknown fit", "fit=squeeze"),
    _options("unknown output", "output=everything"),
    _options("unknown sampling", "sampling=random"),
    _options("broken UTF-8", "model=%ff%fe"),
    _options("very long query", "model=" + "x" * 5000),
    Case("option of another route", 422, "invalid-options", "/encode?quality=3", raw(picture), PNG),
    Case("fps of 0", 422, "invalid-options", "/reconstruct?fps=0", raw(picture), PNG),
    Case("quality of 101", 422, "invalid-options", "/reconstruct?quality=101", raw(picture), PNG),
    Case(
        "size for an array",
        422,
        "invalid-options",
        "/encode?size=8",
        packed(array=pack_tensor(scene(1, 8, 8))),
        MSGPACK,
    ),
    Case(
        "option in query and body",
        422,
        "invalid-options",
        "/encode?size=32",
        packed(media=picture(), options={"size": "32"}),
        MSGPACK,
    ),
    Case("options as a list", 422, "invalid-options", "/encode", packed(media=picture(), options=[1]), MSGPACK),
]
