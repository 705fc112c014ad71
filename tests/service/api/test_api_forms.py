"""Every form of a request with every form of an answer, and tokens that go back as they came."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import av
import httpx
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from api_media import animation, clip, fragmented, picture, scene
from api_server import VAE, VQ, BlockBackend
from numpy.typing import NDArray
from PIL import Image

from model.metrics.psnr import MAX_PSNR_DB
from service.formats.codes import FORMATS, read_codes, sniff_codes
from service.formats.media_types import MSGPACK, NPZ
from service.formats.result import EncodeResult
from service.formats.tensors import pack_tensor, unpack_tensor

MSGPACK_ALIASES = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")
CODE_FORMS = [form for form in FORMATS if form != "application/x-npy"]
PIXELS = scene(9, 48, 64)

Post = Callable[..., httpx.Response]


@pytest.fixture
def post(http: httpx.Client) -> Post:
    def send(path: str, accept: str | None = None, **arguments: Any) -> httpx.Response:
        headers = arguments.pop("headers", {}) | ({"Accept": accept} if accept else {})
        response = http.post(path, headers=headers, **arguments)
        assert response.status_code == 200, response.text[:500]
        assert response.headers["vary"] == "Accept"
        return response

    return send


def encoded(response: httpx.Response) -> EncodeResult:
    return read_codes(response.content, response.headers["content-type"])


def expected_tokens(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    backend = BlockBackend()
    return backend._tokens(backend._latents(pixels))


def video_frames(data: bytes) -> NDArray[np.uint8]:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


REQUESTS: dict[str, Callable[[bytes, str], dict[str, Any]]] = {
    "raw": lambda data, kind: {"content": data, "headers": {"Content-Type": kind}},
    "sniffed": lambda data, kind: {"content": data, "headers": {"Content-Type": "application/octet-stream"}},
    "untyped": lambda data, kind: {"content": data},
    "chunked": lambda data, kind: {"content": iter([data[:7], data[7:]]), "headers": {"Content-Type": kind}},
    "multipart": lambda data, kind: {"files": {"media": ("x", data, kind)}},
    "multipart, sniffed": lambda data, kind: {"files": {"media": ("x", data, "application/octet-stream")}},
    "msgpack": lambda data, kind: {"content": msgpack.packb({"media": data}), "headers": {"Content-Type": MSGPACK}},
    "json": lambda data, kind: {"json": {"media": base64.b64encode(data).decode()}},
    "json, data URL": lambda data, kind: {
        "json": {"media": f"data:{kind};base64,{base64.b64encode(data).decode()}"},
    },
    "json, lines": lambda data, kind: {"json": {"media": base64.encodebytes(data).decode().replace("\n", "\r\n\t ")}},
}
MEDIA: dict[str, tuple[Callable[[], bytes], int]] = {
    "image/png": (picture, 1),
    "image/jpeg": (lambda: picture("JPEG"), 1),
    "image/webp": (lambda: picture("WEBP"), 1),
    "image/gif": (lambda: animation(5), 1),
    "video/mp4": (clip, 9),
    "video/webm": (lambda: clip(9, container="webm", codec="libvpx-vp9"), 9),
    "video/quicktime": (lambda: clip(9, container="mov"), 9),
    "video/x-matroska": (lambda: clip(9, container="matroska"), 9),
}


@pytest.mark.parametrize("form", REQUESTS)
@pytest.mark.parametrize("kind", MEDIA)
def test_every_media_type_in_every_request_form(post: Post, form: str, kind: str) -> None:
    make, frames = MEDIA[kind]
    result = encoded(post("/encode", **REQUESTS[form](make(), kind)))
    meta = result.meta
    assert meta.size is not None
    assert meta.source is not None
    assert meta.timing is not None
    assert meta.size.frames == frames
    assert result.grid == VQ.geometry.grid(meta.size.as_tuple()) == tuple(meta.grid or ())
    assert (meta.model, meta.bundle, meta.kind, meta.codebook_size) == (VQ.id, VQ.hash, "vq", 512)
    assert meta.timing.total_ms >= meta.timing.decode_ms >= 0
    assert len(meta.source.sampled_pts) == frames
    assert (meta.fps is None) == (frames == 1)
    assert result.tokens is not None
    assert result.tokens.dtype == np.uint16


@pytest.mark.parametrize(
    ("label", "make"),
    [
        ("image/jpg", lambda: picture("JPEG")),
        ("IMAGE/PNG; charset=binary", picture),
        ("video/x-m4v", clip),
        ("video/mp4; codecs=avc1", clip),
        ("video/matroska", lambda: clip(9, container="matroska")),
        ("video/quicktime", clip),
    ],
)
def test_labels_that_mean_the_same(post: Post, label: str, make: Callable[[], bytes]) -> None:
    assert encoded(post("/encode", content=make(), headers={"Content-Type": label})).meta.bundle == VQ.hash


def test_lossless_picture_gives_the_tokens_of_its_pixels(post: Post) -> None:
    pixels = scene(1, 48, 64)
    for request in (
        {"content": picture(), "headers": {"Content-Type": "image/png"}},
        {"content": msgpack.packb({"array": pack_tensor(pixels)}), "headers": {"Content-Type": MSGPACK}},
        {"content": msgpack.packb({"array": pack_tensor(pixels[0])}), "headers": {"Content-Type": MSGPACK}},
    ):
        np.testing.assert_array_equal(encoded(post("/encode", **request)).tokens, expected_tokens(pixels))


@pytest.mark.parametrize("alias", MSGPACK_ALIASES)
def test_arrays_in_msgpack_and_json(post: Post, alias: str) -> None:
    envelope = pack_tensor(PIXELS)
    packed = post("/encode", content=msgpack.packb({"array": envelope}), headers={"Content-Type": alias}, accept=alias)
    small = scene(2, 24, 24)
    in_json = pack_tensor(small) | {"data": base64.b64encode(small.tobytes()).decode()}
    assert packed.headers["content-type"] == MSGPACK
    np.testing.assert_array_equal(encoded(packed).tokens, expected_tokens(PIXELS))
    result = encoded(post("/encode", json={"array": in_json}))
    np.testing.assert_array_equal(result.tokens, expected_tokens(small))
    assert (result.meta.source, result.meta.preprocess, result.meta.fps) == (None, None, None)


@pytest.mark.parametrize("output", ["tokens", "latents", "both"])
@pytest.mark.parametrize("accept", CODE_FORMS)
def test_every_answer_form_goes_back_to_decode_byte_for_byte(post: Post, accept: str, output: str) -> None:
    model = VAE if output == "latents" else VQ
    query = {"model": model.id, "output": output}
    answer = post("/encode", accept, params=query, content=clip(), headers={"Content-Type": "video/mp4"})
    assert answer.headers["content-type"] == accept
    assert answer.headers["x-omnitok-model"] == model.id
    assert answer.headers["x-omnitok-bundle"] == model.hash
    result = encoded(answer)
    assert (result.tokens is None, result.latents is None) == (output == "latents", output == "tokens")
    assert sniff_codes(answer.content[:64]) == accept
    for label in (accept, "application/octet-stream"):
        back = post("/decode", MSGPACK, content=answer.content, headers={"Content-Type": label})
        frames = msgpack.unpackb(back.content)
        assert unpack_tensor(frames["pixels"], "pixels").shape == (9, 48, 64, 3)
        assert frames["fps"] == pytest.approx(25)
        assert (frames["model"], frames["bundle"]) == (model.id, model.hash)
    form = post("/decode", "application/x-npy", files={"tokens": ("t", answer.content, accept)})
    np.testing.assert_array_equal(np.load(io.BytesIO(form.content)), unpack_tensor(frames["pixels"], "pixels"))


def test_all_answer_forms_hold_the_same(post: Post) -> None:
    requests = {"content": clip(), "headers": {"Content-Type": "video/mp4"}, "params": {"output": "both"}}
    results = [encoded(post("/encode", accept, **requests)) for accept in CODE_FORMS]
    changing = {"id", "timing"}
    for result in results:
        np.testing.assert_array_equal(result.tokens, results[0].tokens)
        np.testing.assert_array_equal(result.latents, results[0].latents)
        assert result.meta.model_dump(exclude=changing) == results[0].meta.model_dump(exclude=changing)


def test_answers_open_with_ordinary_tools(post: Post) -> None:
    request = {"content": picture(), "headers": {"Content-Type": "image/png"}}
    tokens = expected_tokens(scene(1, 48, 64))
    default = np.load(io.BytesIO(post("/encode", **request).content), allow_pickle=False)
    np.testing.assert_array_equal(default["tokens"], tokens)
    npy = post("/encode", "application/x-npy", **request)
    np.testing.assert_array_equal(np.load(io.BytesIO(npy.content), allow_pickle=False), tokens)
    npz = np.load(io.BytesIO(post("/encode", "application/x-npz", **request).content), allow_pickle=False)
    np.testing.assert_array_equal(npz["tokens"], tokens)
    assert json.loads(str(npz["meta"]))["bundle"] == VQ.hash
    tensors = safetensors.numpy.load(post("/encode", "application/vnd.safetensors", **request).content)
    np.testing.assert_array_equal(tensors["tokens"], tokens)
    body = post("/encode", "application/json", **request).json()
    assert body["tokens"] == tokens.tolist()
    pixels = post(
        "/decode", params={"bundle": VQ.hash}, content=npy.content, headers={"Content-Type": "application/x-npy"}
    )
    assert Image.open(io.BytesIO(pixels.content)).size == (64, 48)


@pytest.mark.parametrize("route", ["/decode", "/reconstruct"])
@pytest.mark.parametrize(
    ("accept", "form"), [(None, "PNG"), ("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/webp", "WEBP")]
)
def test_pictures_come_back_as_pictures(post: Post, route: str, accept: str | None, form: str) -> None:
    request: dict[str, Any] = {"content": picture("PNG", 45, 61), "headers": {"Content-Type": "image/png"}}
    if route == "/decode":
        request["content"] = post("/encode", **request).content
        request["headers"] = {"Content-Type": NPZ}
    response = post(route, accept, **request)
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.size) == (form, (61, 45))
    error = np.abs(np.asarray(image.convert("RGB")).astype(int) - scene(1, 45, 61)[0])
    assert error.mean() < 40


@pytest.mark.parametrize("route", ["/decode", "/reconstruct"])
@pytest.mark.parametrize("accept", [None, "video/mp4", "video/webm", "image/gif", "application/x-npy"])
def test_clips_come_back_as_clips(post: Post, route: str, accept: str | None) -> None:
    request: dict[str, Any] = {"content": clip(), "headers": {"Content-Type": "video/mp4"}}
    if route == "/decode":
        request = {"content": post("/encode", **request).content, "headers": {"Content-Type": NPZ}}
    response = post(route, accept, **request)
    assert response.headers["content-type"] == (accept or "video/mp4")
    frames = np.load(io.BytesIO(response.content)) if accept == "application/x-npy" else video_frames(response.content)
    assert frames.shape == (9, 48, 64, 3)
    assert np.abs(frames.astype(int) - PIXELS).mean() < 40


def test_options_in_query_form_and_body_mean_the_same(post: Post) -> None:
    options = {"size": "32x40", "frames": 3, "sampling": "uniform", "fit": "stretch"}
    data = fragmented(12)
    answers = [
        post("/encode", params=options, content=data, headers={"Content-Type": "video/mp4"}),
        post("/encode", params=options, files={"media": ("x", data, "video/mp4")}),
        post("/encode", files={"media": ("x", data, "video/mp4")}, data={"options": json.dumps(options)}),
        post("/encode", content=msgpack.packb({"media": data, "options": options}), headers={"Content-Type": MSGPACK}),
        post("/encode", json={"media": base64.b64encode(data).decode(), "options": options}),
    ]
    results = [encoded(answer) for answer in answers]
    for result in results:
        assert result.meta.size is not None
        assert result.meta.size.as_tuple() == (3, 32, 40)
        np.testing.assert_array_equal(result.tokens, results[0].tokens)


def test_decode_options_crop_and_set_the_rate(post: Post) -> None:
    tokens = post("/encode", MSGPACK, content=clip(), headers={"Content-Type": "video/mp4"}).content
    options = {"frames": 7, "height": 41, "width": 60, "fps": 10}
    for arguments in (
        {"params": options, "content": tokens, "headers": {"Content-Type": MSGPACK}},
        {"files": {"tokens": ("t", tokens, MSGPACK)}, "data": {"options": json.dumps(options)}},
    ):
        frames = msgpack.unpackb(post("/decode", MSGPACK, **arguments).content)
        assert frames["pixels"]["shape"] == [7, 41, 60, 3]
        assert frames["fps"] == 10


def test_handmade_tokens_need_only_a_hash(post: Post) -> None:
    body = {"bundle": VQ.hash, "tokens": [[[0, 511], [7, 63]]]}
    response = post("/decode", json=body)
    image = np.asarray(Image.open(io.BytesIO(response.content)))
    assert image.shape == (16, 16, 3)
    np.testing.assert_array_equal(image[0, 8], [239, 239, 239])


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_safetensors_hold_tokens_of_any_integer_type(post: Post, dtype: str) -> None:
    tokens = np.array([[[0, 100], [7, 63]]])
    expected = post("/decode", json={"bundle": VQ.hash, "tokens": tokens.tolist()})
    body = safetensors.numpy.save({"tokens": tokens.astype(dtype)})
    headers = {"Content-Type": "application/vnd.safetensors"}
    assert post("/decode", params={"bundle": VQ.hash}, content=body, headers=headers).content == expected.content


def test_safetensors_hold_latents_in_bfloat16(post: Post) -> None:
    # The upper halves of the float32 bits 3f800000, bf000000, 3e800000.
    data = np.array([0x3F80, 0xBF00, 0x3E80], "<u2").tobytes()
    header = json.dumps({"latents": {"dtype": "BF16", "shape": [1, 1, 1, 3], "data_offsets": [0, len(data)]}}).encode()
    body = len(header).to_bytes(8, "little") + header + data
    latents = read_codes(body, "application/vnd.safetensors").latents
    assert latents is not None
    assert latents.dtype == np.float32
    assert latents.tolist() == [[[[1.0, -0.5, 0.25]]]]
    request = {"params": {"bundle": VAE.hash}, "headers": {"Content-Type": "application/vnd.safetensors"}}
    expected = post("/decode", content=safetensors.numpy.save({"latents": latents}), **request)
    assert post("/decode", content=body, **request).content == expected.content


@pytest.mark.parametrize("form", [NPZ, "application/json"])
def test_bytes_that_may_take_long_are_parsed_in_a_thread(
    post: Post, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    tokens = post("/encode", form, content=picture(), headers={"Content-Type": "image/png"})
    in_loop: list[bool] = []

    def load(data: bytes, max_bytes: int) -> EncodeResult:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            in_loop.append(False)
        else:
            in_loop.append(True)
        return load_as_before(data, max_bytes)

    load_as_before = FORMATS[form].load
    monkeypatch.setitem(FORMATS, form, replace(FORMATS[form], load=load))
    for declared in (form, "application/octet-stream"):
        post("/decode", content=tokens.content, headers={"Content-Type": declared})
    assert in_loop == [False, False], "others are served meanwhile"


def test_latents_of_a_vq_bundle_are_decoded_too(post: Post) -> None:
    request = {"content": picture(), "headers": {"Content-Type": "image/png"}}
    latents = post("/encode", params={"output": "latents"}, **request)
    back = post("/decode", "application/x-npy", content=latents.content, headers={"Content-Type": "application/x-npz"})
    assert back.headers["x-omnitok-model"] == VQ.id
    assert np.load(io.BytesIO(back.content)).shape == (1, 48, 64, 3)


def test_tokens_find_their_bundle_by_hash(post: Post) -> None:
    request = {"content": picture(), "headers": {"Content-Type": "image/png"}}
    latents = post("/encode", params={"model": VAE.id}, **request)
    back = post("/decode", content=latents.content, headers={"Content-Type": NPZ})
    assert back.headers["x-omnitok-model"] == VAE.id


def test_reconstruct_reports_its_quality(post: Post) -> None:
    request = {"content": picture(), "headers": {"Content-Type": "image/png"}}
    response = post("/reconstruct", "application/x-npy", **request)
    difference = np.load(io.BytesIO(response.content)).astype(float) - scene(1, 48, 64)
    psnr = 10 * np.log10(255**2 / np.mean(difference**2))
    assert float(response.headers["x-omnitok-psnr"]) == pytest.approx(psnr, abs=1e-3)
    flat = msgpack.packb({"array": pack_tensor(np.full((8, 8, 3), 239, np.uint8))})
    same = post("/reconstruct", content=flat, headers={"Content-Type": MSGPACK})
    assert float(same.headers["x-omnitok-psnr"]) == MAX_PSNR_DB


def test_server_timing_names_every_phase(post: Post) -> None:
    header = post("/encode", content=picture(), headers={"Content-Type": "image/png"}).headers["server-timing"]
    phases = dict(part.split(";dur=") for part in header.split(", "))
    assert list(phases) == ["decode", "queue", "compute", "render"]
    assert (float(phases["queue"]), float(phases["compute"])) == (1.0, 2.0)
    assert float(phases["decode"]) > 0


def test_the_answer_tells_where_the_time_went(post: Post) -> None:
    timing = encoded(post("/encode", content=picture(), headers={"Content-Type": "image/png"})).meta.timing
    assert timing is not None
    assert (timing.queue_ms, timing.compute_ms) == (1.0, 2.0)
    assert 0 < timing.decode_ms <= timing.total_ms
    pixels = msgpack.packb({"array": pack_tensor(scene(1, 8, 8))})
    ready = encoded(post("/encode", content=pixels, headers={"Content-Type": MSGPACK})).meta.timing
    assert ready is not None
    assert ready.decode_ms == 0


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ({"latents": np.zeros((1, 2, 2, 4), "<f4")}, "3 channels"),
        ({"tokens": np.zeros((1, 2, 2), "<u2")}, "only tokens came"),
        ({"latents": np.zeros((1, 2, 2), "<f4")}, ""),
    ],
)
def test_a_vae_decodes_its_own_latents_only(http: httpx.Client, codes: dict[str, NDArray[Any]], words: str) -> None:
    body = msgpack.packb({"bundle": VAE.hash} | {name: pack_tensor(value) for name, value in codes.items()})
    refused = http.post("/decode", content=body, headers={"Content-Type": MSGPACK})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-tensor")
    assert words in refused.json()["detail"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_must_be_finite(http: httpx.Client, value: float) -> None:
    latents = np.zeros((1, 2, 2, 3), "<f4")
    latents[0, 1, 0, 2] = value
    body = msgpack.packb({"bundle": VAE.hash, "latents": pack_tensor(latents)})
    refused = http.post("/decode", content=body, headers={"Content-Type": MSGPACK})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-tensor")


def test_a_rate_that_no_player_knows_is_told_and_not_written(post: Post, http: httpx.Client) -> None:
    fast = clip(frames=5, fps=15_000)
    answer = post("/encode", MSGPACK, headers={"Content-Type": "video/mp4"}, content=fast)
    fps = read_codes(answer.content, MSGPACK).meta.fps
    assert fps is not None
    assert fps > 1_000
    headers = {"Content-Type": MSGPACK, "Accept": "video/mp4"}
    refused = http.post("/decode", headers=headers, content=answer.content)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-options")
    assert http.post("/decode?fps=25", headers=headers, content=answer.content).status_code == 200
