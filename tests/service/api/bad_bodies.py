"""msgpack, JSON and multipart bodies of `/encode` that are not what they should be."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgpack
from api_media import picture
from bad_case import (
    FORM,
    JSON,
    MSGPACK,
    Case,
    as_json,
    envelope,
    multipart,
    packed,
    raw,
)


def _array(name: str, envelope: Any, code: str = "invalid-tensor") -> Case:
    return Case(name, 422, code, "/encode", packed(array=envelope), MSGPACK)


def _malformed(name: str, body: bytes, headers: dict[str, str] = MSGPACK) -> Case:
    return Case(name, 400, "malformed-body", "/encode", raw(body), headers)


BODIES = [
    _malformed("msgpack noise", b"\xc1\xff\x00"),
    _malformed("msgpack cut off", msgpack.packb({"media": picture()})[:-9]),
    _malformed("msgpack with a tail", msgpack.packb({"media": picture()}) + b"\x00"),
    _malformed("msgpack list", msgpack.packb([1, 2])),
    _malformed("msgpack with a key twice", b"\x82\xa5media\xc4\x01x\xa5media\xc4\x01x"),
    _malformed("msgpack with number keys", msgpack.packb({1: 2})),
    _malformed("msgpack extension", msgpack.packb({"media": msgpack.ExtType(5, b"x")})),
    _malformed("msgpack time stamp", b"\x81\xa5media\xd6\xff\0\0\0\0"),
    _malformed("msgpack nested deep", b"\x81\xa5media" + b"\x91" * 100_000),
    _malformed("msgpack that claims a huge list", b"\x81\xa5media\xdd\xff\xff\xff\xff"),
    _malformed("msgpack that claims huge bytes", b"\x81\xa5media\xc6\xff\xff\xff\xff"),
    _malformed("msgpack of countless lists", b"\x81\xa5media\xdc\x0f\xa0" + (b"\xdc\x0f\xa0" + b"\x90" * 4000) * 60),
    _malformed("media as text", msgpack.packb({"media": "x.png"})),
    Case("media and array", 400, "malformed-body", "/encode", packed(media=b"x", array={}), MSGPACK),
    Case("neither media nor array", 400, "missing-part", "/encode", packed(options={}), MSGPACK),
    Case("unknown field", 400, "malformed-body", "/encode", packed(media=b"x", path="/etc/passwd"), MSGPACK),
    _array("float array", envelope("<f4", [8, 8, 3])),
    _array("object array", {"dtype": "|O", "shape": [1, 1, 3], "data": bytes(24)}),
    _array("dtype that is not a string", {"dtype": 7, "shape": [1, 1, 3], "data": bytes(3)}),
    _array("big-endian array", {"dtype": ">u2", "shape": [1, 1, 3], "data": bytes(6)}),
    _array("shape that does not fit", envelope("|u1", [8, 8, 3], bytes(100))),
    _array("negative shape", {"dtype": "|u1", "shape": [-1, -1, 3], "data": bytes(3)}),
    _array("shape that overflows", {"dtype": "|u1", "shape": [2**31 - 1] * 5, "data": bytes(3)}),
    _array("shape of truths", {"dtype": "|u1", "shape": [True, True, 3], "data": bytes(3)}),
    _array("empty axis", envelope("|u1", [0, 8, 8, 3])),
    _array("flat array", envelope("|u1", [8, 8])),
    _array("four channels", envelope("|u1", [8, 8, 4])),
    _array("array of many frames", envelope("|u1", [18, 8, 8, 3]), "too-many-frames"),
    _array("array of many pixels", envelope("|u1", [264, 256, 3]), "too-many-pixels"),
    _array("array that is not a map", [1, 2, 3]),
    _malformed("JSON noise", b"{'media': 1}", JSON),
    _malformed("JSON list", b"[]", JSON),
    _malformed("JSON with a key twice", b'{"media": "", "media": ""}', JSON),
    _malformed("JSON with NaN", b'{"media": NaN}', JSON),
    _malformed("JSON nested deep", b'{"media":' + b"[" * 40_000 + b"]" * 40_000, JSON),
    _malformed("JSON of countless keys", json.dumps(dict.fromkeys(map(str, range(5000)))).encode(), JSON),
    _malformed("JSON with a huge number", b'{"media":' + b"9" * 50_000 + b"}", JSON),
    _malformed("JSON that is not UTF-8", b'{"media": "\xff"}', JSON),
    _malformed("bad base64", json.dumps({"media": "@@@@"}).encode(), JSON),
    Case(
        "unicode surrogates as an option",
        422,
        "invalid-options",
        "/encode",
        as_json(media=base64.b64encode(picture()).decode(), options={"\ud800": 1}),
        JSON,
    ),
    Case("JSON array without data", 422, "invalid-tensor", "/encode", as_json(array={"dtype": "|u1"}), JSON),
    _malformed("multipart without boundary", b"--sep--", {"Content-Type": "multipart/form-data"}),
    Case(
        "multipart with another boundary",
        400,
        "malformed-body",
        "/encode",
        multipart(("media", picture(), "")),
        {"Content-Type": "multipart/form-data; boundary=other"},
    ),
    Case("multipart cut off", 400, "malformed-body", "/encode", multipart(("media", b"x", ""), tail=b""), FORM),
    Case("multipart without media", 400, "missing-part", "/encode", multipart(("options", b"{}", "")), FORM),
    Case("multipart with an unknown part", 400, "malformed-body", "/encode", multipart(("file", b"x", "")), FORM),
    Case(
        "multipart with a part twice",
        400,
        "malformed-body",
        "/encode",
        multipart(("media", b"x", ""), ("media", b"x", "")),
        FORM,
    ),
    Case("multipart with an empty part", 400, "malformed-body", "/encode", multipart(("media", b"", "")), FORM),
    Case(
        "multipart with text as media",
        415,
        "unsupported-media-type",
        "/encode",
        multipart(("media", b"x", "Content-Type: text/plain\r\n")),
        FORM,
    ),
    Case(
        "multipart in base64",
        415,
        "unsupported-encoding",
        "/encode",
        multipart(("media", b"eA==", "Content-Transfer-Encoding: base64\r\n")),
        FORM,
    ),
    Case(
        "multipart with broken options",
        400,
        "malformed-body",
        "/encode",
        multipart(("media", picture(), ""), ("options", b"{", "")),
        FORM,
    ),
    Case(
        "multipart with unknown options",
        422,
        "invalid-options",
        "/encode",
        multipart(("media", picture(), ""), ("options", b'{"size": 32, "path": "/etc"}', "")),
        FORM,
    ),
    Case(
        "multipart with huge options",
        413,
        "body-too-large",
        "/encode",
        multipart(("media", picture(), ""), ("options", b" " * 20_000, "")),
        FORM,
    ),
    _malformed("multipart with a thousand headers", b"--sep\r\n" + b"A: b\r\n" * 1000 + b"\r\nx\r\n--sep--\r\n", FORM),
]
