"""Bad requests for generators, and the problem that each must get of the server of these tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
from api_media import clip, picture, scene
from api_server import VAE, VQ
from bad_case import (
    FORM,
    GIF,
    JSON,
    MP4,
    MSGPACK,
    NPY,
    NPZ,
    OCTETS,
    PNG,
    Case,
    Target,
    as_json,
    cut,
    envelope,
    multipart,
    npy,
    packed,
    raw,
)

from service.formats.codes import write_codes
from service.formats.result import EncodeMeta, EncodeResult
from service.formats.tensors import pack_tensor

Body = Callable[[Target], "bytes | list[bytes] | None"]
NOTHING = raw(b"")
ACCEPT_NPY = {"Accept": "application/x-npy"}


def tokens(
    shape: tuple[int, ...] = (2, 4, 4), bundle: str | None = VQ.hash, value: int = 0, form: str = NPZ["Content-Type"]
) -> bytes:
    return write_codes(EncodeResult(EncodeMeta(bundle=bundle), np.full(shape, value, np.uint16)), form)


def latents(bundle: str = VQ.hash) -> bytes:
    meta = EncodeMeta(bundle=bundle)
    return write_codes(EncodeResult(meta, latents=np.zeros((2, 4, 4, 3), np.float32)), NPZ["Content-Type"])


def _case(name: str, code: str, query: str, body: Body = NOTHING, status: int = 422, **more: Any) -> Case:
    return Case(f"generate: {name}", status, code, f"/generate?{query}", body, **more)


def _options(name: str, value: object) -> list[Case]:
    """An option that is refused in the query, in JSON and in msgpack."""
    given: dict[str, Any] = {"class": 0} | {name: value}
    query = "&".join(f"{key}={each}" for key, each in given.items())
    label = f"{name}={str(value)[:12]}"
    cases = [_case(f"{label} in msgpack", "invalid-options", "", packed(**given), headers=MSGPACK)]
    if value == value and value not in (float("inf"), float("-inf")):  # JSON has neither NaN nor infinity
        cases.append(_case(f"{label} in JSON", "invalid-options", "", as_json(**given), headers=JSON))
    if isinstance(value, int | float | str) and not (name == "class" and value != ""):
        cases.append(_case(f"{label} in the query", "invalid-options", query))
    return cases


OPTIONS = [
    case
    for name, values in {
        "kind": ["music", ""],
        "class": ["", "x" * 300, True, 1.5, [1], {"id": 1}, -1],
        "n": [0, -1, 65, 10**9, 1.5, "many"],
        "seed": [-1, 2**63, "x"],
        "temperature": [-0.1, -1, 1e6, float("nan"), float("inf"), "hot"],
        "top_k": [-1, 10**9, 0.5],
        "top_p": [0, -0.5, 1.5, float("nan")],
        "guidance": [-1, 1e9, float("nan"), float("inf")],
        "guidance_growth": [-1, float("nan")],
        "steps": [0, -3, 10**6],
        "sampler": ["euler"],
        "frames": [0, -5, 2**21],
        "prefix_frames": [0, -1, 2**21],
        "output": ["latents", ""],
        "preview": ["perhaps"],
        "fps": [0, 1e6, float("nan")],
        "quality": [0, 101],
        "start_s": [-1, float("nan")],
        "size": ["32x32", 10**9],
        "colour": ["red"],
    }.items()
    for value in values
    for case in _options(name, value)
]

CHOICES = [
    _case("unknown name", "unknown-class", "class=etc-passwd"),
    _case("unknown id", "unknown-class", "class=4"),
    _case("huge id", "unknown-class", "class=999999999"),
    _case("negative id as text", "unknown-class", "class=-1"),
    _case("no class where one is needed", "invalid-options", ""),
    _case("option twice", "invalid-options", "class=0&class=1"),
    _case("option in query and body", "invalid-options", "class=0", as_json(**{"class": 1}), headers=JSON),
    _case("unknown model", "unknown-model", "class=0&model=etc-passwd", status=404),
    _case("a tokenizer as the model", "unknown-model", f"class=0&model={VQ.id}", status=404),
    _case("tokenizer that is not served", "tokenizer-not-served", "class=0&model=toy-lost"),
    _case("video of a model of images", "invalid-options", "class=0&model=toy-dit&kind=video"),
    _case("frames of a model of images", "invalid-options", "class=0&model=toy-dit&frames=9"),
    _case("frames of an image", "invalid-options", "class=0&kind=image&frames=9"),
    _case("steps of a language model", "invalid-options", "class=0&steps=10"),
    _case("sampler of a language model", "invalid-options", "class=0&sampler=ddim"),
    _case("top-k of a diffusion model", "invalid-options", "class=0&model=toy-dit&top_k=10"),
    _case("temperature of a diffusion model", "invalid-options", "class=0&model=toy-dit&temperature=1"),
    _case("more steps than were trained", "invalid-options", "class=0&model=toy-dit&steps=251"),
    _case("frames over the limit", "too-many-frames", "class=0&frames=21"),
    _case("tiny temperature", "invalid-options", "class=0&temperature=1e-30"),
]

PREFIXES = [
    _case("prefix without media", "invalid-options", "class=0&prefix_frames=5"),
    _case("prefix of an image", "invalid-options", "class=0&kind=image&prefix_frames=5"),
    _case("prefix as long as the video", "invalid-options", "class=0&frames=5&prefix_frames=5", raw(clip), headers=MP4),
    _case(
        "prefix longer than the video", "invalid-options", "class=0&frames=5&prefix_frames=9", raw(clip), headers=MP4
    ),
    _case(
        "prefix longer than the clip",
        "invalid-options",
        "class=0&frames=9&prefix_frames=5",
        raw(lambda: clip(3)),
        headers=MP4,
    ),
    _case(
        "prefix longer than the tokens",
        "invalid-options",
        "class=0&frames=9&prefix_frames=5",
        raw(lambda: tokens((1, 4, 4))),
        headers=NPZ,
    ),
    _case(
        "prefix as long as the model's clips",
        "invalid-options",
        "class=0&frames=13&prefix_frames=9",
        raw(clip),
        headers=MP4,
    ),
    _case("prefix that is not 1 + 4 k", "invalid-options", "class=0&prefix_frames=3", raw(clip), headers=MP4),
    _case("window that ends before it starts", "invalid-options", "class=0&start_s=2&end_s=1", raw(clip), headers=MP4),
    _case("window outside of the clip", "invalid-options", "class=0&start_s=50&end_s=51", raw(clip), headers=MP4),
    _case("prefix for a model that takes none", "invalid-options", "class=0&model=toy-dit", raw(picture), headers=PNG),
    _case("tokens of another bundle", "model-mismatch", "class=0", raw(lambda: tokens(bundle="0" * 64)), headers=NPZ),
    _case("tokens of the VAE bundle", "model-mismatch", "class=0", raw(lambda: tokens(bundle=VAE.hash)), headers=NPZ),
    _case("tokens of nobody", "invalid-options", "class=0", raw(lambda: tokens(bundle=None)), headers=NPZ),
    _case(
        "tokens outside of the codebook", "token-out-of-range", "class=0", raw(lambda: tokens(value=512)), headers=NPZ
    ),
    _case("tokens of another size", "bad-grid", "class=0", raw(lambda: tokens((2, 4, 5))), headers=NPZ),
    _case("latents for a language model", "invalid-tensor", "class=0", raw(latents), headers=NPZ),
    _case("array of another size", "bad-grid", "class=0", packed(array=pack_tensor(scene(5, 32, 40))), headers=MSGPACK),
    _case(
        "array of floats", "invalid-tensor", "class=0", packed(array=envelope("<f4", [5, 32, 32, 3])), headers=MSGPACK
    ),
    _case(
        "media options of an array",
        "invalid-options",
        "class=0&start_s=1",
        packed(array=pack_tensor(scene(5, 32, 32))),
        headers=MSGPACK,
    ),
    _case("broken clip", "corrupt-media", "class=0", raw(lambda: cut(clip(), 0.5)), headers=MP4),
    _case("broken picture", "corrupt-media", "class=0", raw(lambda: cut(picture(), 0.5)), headers=PNG),
    _case("a png that says it is a gif", "unsupported-media-type", "class=0", raw(picture), status=415, headers=GIF),
    _case("text without a label", "unsupported-media-type", "class=0", raw(b"colour me"), status=415, headers=OCTETS),
    _case("options without a label", "unsupported-media-type", "class=0", as_json(n=1), status=415, headers=OCTETS),
]

BODIES = [
    _case("text", "unsupported-media-type", "class=0", raw(b"x"), status=415, headers={"Content-Type": "text/plain"}),
    _case("JSON that is a list", "malformed-body", "", raw(b"[1]"), status=400, headers=JSON),
    _case("JSON with NaN", "malformed-body", "", raw(b'{"class": 0, "temperature": NaN}'), status=400, headers=JSON),
    _case("JSON cut off", "malformed-body", "", raw(b'{"class": 0'), status=400, headers=JSON),
    _case("JSON with a key twice", "malformed-body", "", raw(b'{"class": 0, "class": 1}'), status=400, headers=JSON),
    _case("nested options", "invalid-options", "", as_json(options={"class": 0}), headers=JSON),
    _case("msgpack cut off", "malformed-body", "", raw(msgpack.packb({"class": 0})[:-1]), status=400, headers=MSGPACK),
    _case("two prefixes", "malformed-body", "class=0", packed(media=b"x", codes=b"x"), status=400, headers=MSGPACK),
    _case("media that is a number", "malformed-body", "class=0", packed(media=5), status=400, headers=MSGPACK),
    _case("codes that are a map", "malformed-body", "class=0", packed(codes={}), status=400, headers=MSGPACK),
    _case(
        "codes that are no codes",
        "unsupported-media-type",
        "class=0",
        packed(codes=b"colour"),
        status=415,
        headers=MSGPACK,
    ),
    _case("codes of broken base64", "malformed-body", "class=0", as_json(codes="???"), status=400, headers=JSON),
    _case("media of broken base64", "malformed-body", "class=0", as_json(media="???"), status=400, headers=JSON),
    _case("JSON over its limit", "body-too-large", "class=0", as_json(media="A" * 200_000), status=413, headers=JSON),
    _case(
        "form without media", "missing-part", "", multipart(("options", b'{"class": 0}', "")), status=400, headers=FORM
    ),
    _case(
        "form with a list of options",
        "malformed-body",
        "",
        multipart(("media", picture(), ""), ("options", b"[]", "")),
        status=400,
        headers=FORM,
    ),
    _case(
        "npy with a pickle",
        "invalid-tensor",
        "class=0",
        raw(lambda: npy(np.array([{}], object), allow_pickle=True)),
        headers=NPY,
    ),
    _case("stream that cannot begin", "unknown-class", "class=99", headers={"Accept": "text/event-stream"}),
    _case("picture of two samples", "not-acceptable", "class=0&n=2", status=406, headers={"Accept": "image/png"}),
    _case("picture of a clip", "not-acceptable", "class=0&frames=5", status=406, headers={"Accept": "image/png"}),
    _case("latents as npy", "not-acceptable", "class=0&model=toy-dit&output=tokens", status=406, headers=ACCEPT_NPY),
    _case("Accept that is nonsense", "bad-header", "class=0", status=400, headers={"Accept": "png"}),
    Case("generate: GET", 405, "method-not-allowed", "/generate", raw(b""), method="GET"),
]

CLASSES = [
    Case(f"classes: {name}", status, code, f"/classes?{query}", raw(b""), method="GET")
    for name, status, code, query in (
        ("unknown model", 404, "unknown-model", "model=etc-passwd"),
        ("tokenizer", 404, "unknown-model", f"model={VQ.id}"),
        ("unknown option", 422, "invalid-options", "colour=red"),
        ("long search", 422, "invalid-options", f"q={'x' * 300}"),
        ("search twice", 422, "invalid-options", "q=a&q=b"),
    )
]

GENERATE_CASES: list[Case] = [*OPTIONS, *CHOICES, *PREFIXES, *BODIES, *CLASSES]
