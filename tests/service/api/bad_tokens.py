"""Bodies of `/decode` that hold no tokens of the bundle, or more than tokens."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bad_case import (
    JSON,
    MSGPACK,
    NPY,
    NPZ,
    OCTETS,
    SAFETENSORS,
    Case,
    Target,
    codes,
    codes_json,
    entry,
    envelope,
    npy,
    npy_claim,
    npz,
    packed,
    raw,
    safetensors,
)

from service.formats.tensors import pack_tensor

MARKER = Path(tempfile.gettempdir()) / "omnitok-pickle-ran"
NINE = np.zeros((1, 2, 2), "<u2")
SIZE = {"frames": 1, "height": 16, "width": 16}


def out_of_range(target: Target) -> bytes:
    return codes(np.full((1, 2, 2), target.card.codebook_size, "<i4"))(target)


class _Detonator:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (MARKER,))


def _decode(
    name: str,
    code: str,
    body: Callable[[Target], bytes],
    headers: dict[str, str] = MSGPACK,
    status: int = 422,
    query: str = "",
) -> Case:
    return Case(name, status, code, f"/decode{query}", body, headers)


HASH = "?bundle={bundle}"
TOKENS = [
    _decode("token over the codebook", "token-out-of-range", out_of_range),
    _decode("negative token", "token-out-of-range", codes(np.full((1, 2, 2), -1, "<i4"))),
    _decode("token of 2**40", "token-out-of-range", codes(np.full((1, 2, 2), 2**40, "<i8"))),
    _decode("float tokens", "invalid-tensor", codes(NINE.astype("<f4"))),
    _decode("flat tokens", "invalid-tensor", codes(NINE[0])),
    _decode("no tokens along an axis", "invalid-tensor", codes(envelope("<u2", [1, 0, 2]))),
    _decode("tokens that do not fill their shape", "invalid-tensor", codes(envelope("<u2", [1, 2, 2], b"x"))),
    _decode("tokens that are text", "invalid-tensor", codes("0 1 2 3")),
    _decode("nothing to decode", "missing-part", codes(None), status=400),
    _decode("tokens of another bundle", "model-mismatch", codes(NINE, bundle="0" * 64)),
    _decode("two hashes", "model-mismatch", codes(NINE), query="?bundle=" + "0" * 64),
    _decode("hash that is not a hash", "invalid-options", codes(NINE, bundle="../demo")),
    _decode("no hash", "invalid-options", packed(tokens=pack_tensor(NINE))),
    _decode("unknown model for tokens", "unknown-model", codes(NINE), status=404, query="?model=none"),
    _decode("latents of nine channels", "invalid-tensor", codes(None, latents=envelope("<f4", [1, 2, 2, 9]))),
    _decode("size that has another grid", "bad-grid", codes(NINE, size=SIZE | {"height": 64})),
    _decode("height that has another grid", "bad-grid", codes(NINE, size=SIZE), query="?height=80"),
    _decode("frames that have another grid", "bad-grid", codes(NINE), query="?frames=2"),
    _decode("grid that is not the tokens'", "bad-grid", codes(NINE, grid=[1, 2, 3])),
    _decode("size of nothing", "invalid-options", codes(NINE, size=SIZE | {"width": 0})),
    _decode("size of the universe", "invalid-options", codes(NINE, size=SIZE | {"width": 2**62})),
    _decode("metadata of another kind", "invalid-options", codes(NINE, fps="fast")),
    _decode("endless fps", "invalid-options", codes(NINE, fps=float("inf"))),
    _decode("unknown metadata", "invalid-options", codes(NINE, path="/etc/passwd")),
    _decode("too many tokens to decode", "too-many-tokens", codes(np.zeros((2, 50, 50), "<u2"))),
    _decode("too many frames", "too-many-frames", codes(np.zeros((6, 1, 1), "<u2"))),
    _decode("option of encode", "invalid-options", codes(NINE), query="?size=8"),
    _decode(
        "picture of a clip",
        "not-acceptable",
        codes(np.zeros((2, 1, 1), "<u2")),
        MSGPACK | {"Accept": "image/png"},
        406,
    ),
    _decode("JSON tokens of uneven rows", "invalid-tensor", codes_json(tokens=[[[1, 2], [3]]]), JSON),
    _decode("JSON tokens of text", "invalid-tensor", codes_json(tokens=[[["1"]]]), JSON),
    _decode("JSON tokens with fractions", "invalid-tensor", codes_json(tokens=[[[1.5]]]), JSON),
    _decode("JSON tokens of 10**30", "invalid-tensor", codes_json(tokens=[[[10**30]]]), JSON),
    _decode("npy without a hash", "invalid-options", raw(npy(NINE)), NPY),
    _decode("npy cut off", "invalid-tensor", raw(npy(NINE)[:-2]), NPY, query=HASH),
    _decode("npy noise", "malformed-body", raw(b"\x93NUMPY\x01\x00\xff\xff{"), NPY, 400, HASH),
    _decode("npy of unknown version", "malformed-body", raw(b"\x93NUMPY\x09\x00"), NPY, 400, HASH),
    _decode("npy header that calls", "malformed-body", raw(npy_claim("__import__('os').getpid()")), NPY, 400, HASH),
    _decode(
        "npy that claims 2**60 tokens",
        "invalid-tensor",
        raw(npy_claim("(1, 1073741824, 1073741824)")),
        NPY,
        422,
        HASH,
    ),
    _decode("npy of objects", "invalid-tensor", raw(npy(np.array([_Detonator()], object), True)), NPY, 422, HASH),
    _decode("npy of big-endian tokens", "invalid-tensor", raw(npy(NINE.astype(">u2"))), NPY, 422, HASH),
    _decode("bare pickle", "malformed-body", raw(pickle.dumps(_Detonator())), NPY, 400, HASH),
    _decode("npz noise", "malformed-body", raw(b"PK\x03\x04" + bytes(200)), NPZ, 400),
    _decode("npz cut off", "malformed-body", raw(npz(tokens=npy(NINE))[:-30]), NPZ, 400),
    _decode("npz bomb", "body-too-large", raw(lambda: npz(tokens=bytes(80_000_000))), NPZ, 413),
    _decode("npz with a pickle", "malformed-body", raw(npz(tokens=pickle.dumps(_Detonator()))), NPZ, 400),
    _decode(
        "npz with an object member",
        "malformed-body",
        raw(npz(meta=npy(np.array([_Detonator()], object), True))),
        NPZ,
        400,
    ),
    _decode("npz with a stranger", "invalid-tensor", raw(npz(other=npy(NINE))), NPZ),
    _decode("npz of nothing", "missing-part", raw(npz()), NPZ, 400),
    _decode("safetensors too short", "malformed-body", raw(b"\0\0"), SAFETENSORS, 400),
    _decode("safetensors with a huge header", "malformed-body", raw(safetensors({}, length=2**63)), SAFETENSORS, 400),
    _decode("safetensors with a broken header", "malformed-body", raw(safetensors(b"{]")), SAFETENSORS, 400),
    _decode(
        "safetensors outside its body",
        "malformed-body",
        raw(safetensors({"tokens": entry("U16", [1, 2, 2], 0, 8)}, bytes(4))),
        SAFETENSORS,
        400,
    ),
    _decode(
        "safetensors that overlap",
        "malformed-body",
        raw(safetensors({name: entry("U16", [1, 1, 2], 0, 4) for name in ("tokens", "latents")}, bytes(4))),
        SAFETENSORS,
        400,
    ),
    _decode(
        "safetensors with a gap",
        "malformed-body",
        raw(safetensors({"tokens": entry("U16", [1, 1, 2], 4, 8)}, bytes(8))),
        SAFETENSORS,
        400,
    ),
    _decode(
        "safetensors of unknown dtype",
        "invalid-tensor",
        raw(safetensors({"tokens": entry("F8_E4M3", [1, 1, 2], 0, 2)}, bytes(2))),
        SAFETENSORS,
    ),
    _decode(
        "safetensors of tokens in bfloat16",
        "invalid-tensor",
        raw(safetensors({"tokens": entry("BF16", [1, 1, 2], 0, 4)}, bytes(4))),
        SAFETENSORS,
    ),
    _decode(
        "safetensors of tokens in a dtype that is no text",
        "invalid-tensor",
        raw(safetensors({"tokens": entry("U8", [1, 1, 2], 0, 2) | {"dtype": ["U8"]}}, bytes(2))),
        SAFETENSORS,
    ),
    _decode(
        "safetensors of a token of 2**64 - 1",
        "token-out-of-range",
        raw(safetensors({"tokens": entry("U64", [1, 1, 1], 0, 8)}, b"\xff" * 8)),
        SAFETENSORS,
        query=HASH,
    ),
    _decode(
        "safetensors of a token of -1",
        "token-out-of-range",
        raw(safetensors({"tokens": entry("I8", [1, 1, 1], 0, 1)}, b"\xff")),
        SAFETENSORS,
        query=HASH,
    ),
    _decode("npz with a book as metadata", "body-too-large", raw(npz(meta=npy(np.array("[" * 300_000)))), NPZ, 413),
    _decode("noise of no form", "unsupported-media-type", raw(b"\xff\xfe\xfd" * 9), OCTETS, 415),
]
