"""`POST /generate`: every form of request and answer, over real HTTP."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from dataclasses import replace
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from api_media import clip, picture, scene
from api_server import VAE, VQ, Server
from bad_inputs import LIMITS
from PIL import Image

from media.reader import open_frames
from media.types import MediaOptions
from service.formats.codes import read_codes, write_codes
from service.formats.result import EncodeMeta, EncodeResult
from service.formats.samples import read_arrays
from service.formats.tensors import pack_tensor
from service.settings import Settings

JSON = {"Content-Type": "application/json"}


def opened(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("wanted", [1, "1", "class:1", "red fox", "Red_Fox"])
def test_a_class_becomes_a_png(http: httpx.Client, server: Server, wanted: object) -> None:
    response = http.post("/generate", json={"class": wanted, "seed": 7})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-omnitok-model"] == "toy-lm"
    assert response.headers["x-omnitok-seed"] == "7"
    assert opened(response.content).shape == (32, 32, 3)
    assert server.generators.jobs[-1].class_id == 1


def test_the_same_seed_makes_the_same_and_another_makes_another(http: httpx.Client) -> None:
    first, again, other = (http.post(f"/generate?class=0&seed={seed}").content for seed in (5, 5, 6))
    assert first == again != other


def test_a_seed_is_drawn_where_none_is_given_and_repeats_the_sample(http: httpx.Client) -> None:
    drawn = http.post("/generate", params={"class": "0"})
    again = http.post("/generate", params={"class": "0", "seed": drawn.headers["x-omnitok-seed"]})
    assert again.content == drawn.content


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp", "image/gif", "video/mp4"])
def test_a_picture_is_answered_in_the_form_that_is_accepted(http: httpx.Client, media_type: str) -> None:
    response = http.post("/generate?class=0", headers={"Accept": media_type})
    assert response.headers["content-type"] == media_type
    frames = read(response.content, media_type)
    assert frames.shape == (1, 32, 32, 3)


def read(data: bytes, media_type: str) -> np.ndarray[Any, Any]:
    """Frames of a picture or a clip, uint8 (T, H, W, 3)."""
    return np.stack(list(open_frames(io.BytesIO(data), None, MediaOptions(animated=True), media_type)))


@pytest.mark.parametrize("media_type", ["video/mp4", "image/gif", "application/x-npy"])
@pytest.mark.parametrize("frames", [5, 9])
def test_a_video_is_answered_in_the_form_that_is_accepted(http: httpx.Client, media_type: str, frames: int) -> None:
    response = http.post(f"/generate?kind=video&class=0&frames={frames}", headers={"Accept": media_type})
    assert response.headers["content-type"] == media_type
    if media_type == "application/x-npy":
        made = np.load(io.BytesIO(response.content))
    else:
        made = read(response.content, media_type)
    assert made.shape == (frames, 32, 32, 3)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/x-npz",
        "application/msgpack",
        "application/vnd.safetensors",
        "application/json",
        "application/x-npy",
    ],
)
def test_tokens_are_answered_as_encode_answers_and_decode_takes_them(http: httpx.Client, media_type: str) -> None:
    query = "class=0&seed=3"
    tokens = http.post(f"/generate?{query}&output=tokens", headers={"Accept": media_type})
    assert tokens.headers["content-type"] == media_type
    bundle = f"?bundle={VQ.hash}" if media_type == "application/x-npy" else ""
    headers = {"Content-Type": media_type, "Accept": "image/png"}
    decoded = http.post(f"/decode{bundle}", content=tokens.content, headers=headers)
    assert decoded.content == http.post(f"/generate?{query}").content


def test_latents_of_diffusion_are_answered_as_encode_answers_them(http: httpx.Client) -> None:
    query = "model=toy-dit&class=0&seed=3&steps=20&sampler=ddpm"
    latents = http.post(f"/generate?{query}&output=tokens", headers={"Accept": "application/x-npz"})
    result = read_codes(latents.content)
    assert (result.meta.model, result.grid) == (VAE.id, (1, 4, 4))
    decoded = http.post("/decode", content=latents.content, headers={"Content-Type": "application/x-npz"})
    assert decoded.content == http.post(f"/generate?{query}").content


def test_many_samples_come_as_a_zip(http: httpx.Client) -> None:
    response = http.post("/generate", json={"class": "coinrun", "n": 3, "seed": 1, "output": "both"})
    assert response.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    assert archive.namelist() == ["samples.json", "00.png", "00.npz", "01.png", "01.npz", "02.png", "02.npz"]
    meta = json.loads(archive.read("samples.json"))
    assert (meta["class_id"], meta["class_name"], meta["seed"], meta["model"]) == (3, "coinrun", 1, "toy-lm")
    assert (meta["tokenizer_bundle"], meta["params"]["guidance"]) == (VQ.hash, 2.0)
    assert not {"steps", "sampler"} & meta["params"].keys(), "which a language model has not"
    pictures = [opened(archive.read(f"0{index}.png")) for index in range(3)]
    assert not (pictures[0] == pictures[1]).all()
    for index in range(3):
        decoded = http.post("/decode", content=archive.read(f"0{index}.npz"))
        assert (opened(decoded.content) == pictures[index]).all()


@pytest.mark.parametrize("output", ["pixels", "tokens", "both"])
@pytest.mark.parametrize("query", ["class=0", "kind=video&class=0&frames=5"])
def test_many_samples_come_as_json_and_as_msgpack(http: httpx.Client, output: str, query: str) -> None:
    path = f"/generate?{query}&n=2&seed=4&output={output}"
    listed = http.post(path, headers={"Accept": "application/json, image/webp;q=0.5, image/gif;q=0.4"})
    packed = read_arrays(http.post(path, headers={"Accept": "application/msgpack"}).content)
    entries = listed.json()["samples"]
    assert [entry["index"] for entry in entries] == [0, 1]
    assert packed.meta.seed == listed.json()["seed"] == 4
    for entry, sample in zip(entries, packed.samples, strict=True):
        assert ("pixels" in entry, "codes" in entry) == (output != "tokens", output != "pixels")
        if sample.pixels is not None:
            form = "image/gif" if "video" in query else "image/webp"
            assert entry["pixels"]["media_type"] == form
            shown = read(base64.b64decode(entry["pixels"]["data"]), form)
            assert shown.shape == sample.pixels.shape
        if sample.codes is not None:
            codes = read_codes(base64.b64decode(entry["codes"]["data"]), entry["codes"]["media_type"])
            assert (codes.tokens == sample.codes.tokens).all()


def test_a_form_that_does_not_hold_the_answer_is_refused(http: httpx.Client, server: Server) -> None:
    jobs = len(server.generators.jobs)
    for query, accept in [
        ("class=0&n=2", "image/png"),
        ("class=0&kind=video", "image/png"),
        ("class=0&output=tokens", "image/png"),
        ("class=0&output=both", "application/x-npz"),
        ("class=0", "text/html"),
    ]:
        response = http.post(f"/generate?{query}", headers={"Accept": accept})
        assert (response.status_code, response.json()["code"]) == (406, "not-acceptable"), query
    assert len(server.generators.jobs) == jobs


def test_many_tokens_have_no_json() -> None:
    with (
        Server(Settings(limits=replace(LIMITS, json_tokens=10))) as server,
        httpx.Client(base_url=server.url, timeout=60) as own,
    ):
        answer = own.post("/generate?class=0&output=tokens", headers={"Accept": "application/json"})
        assert (answer.status_code, "more than 10 positions" in answer.text) == (406, True)
        assert server.generators.jobs == []


@pytest.fixture(scope="module")
def tokens() -> EncodeResult:
    return EncodeResult(EncodeMeta(bundle=VQ.hash), np.arange(32, dtype=np.uint16).reshape(2, 4, 4))


def prefixes(tokens: EncodeResult) -> dict[str, dict[str, Any]]:
    """Requests that continue a picture, a clip or tokens, in every door; the options are added to each."""
    options = {"class": 1, "frames": 9, "output": "tokens"}
    query = {name: str(value) for name, value in options.items()}
    file, npz = clip(), write_codes(tokens, "application/x-npz")
    pixels = pack_tensor(scene(5, 32, 32))
    text = pixels | {"data": base64.b64encode(pixels["data"]).decode()}
    form = {"options": (None, json.dumps(options))}
    packed = {"Content-Type": "application/msgpack"}
    codes = write_codes(tokens, "application/msgpack")
    return {
        "raw picture": {"params": query, "content": picture(), "headers": {"Content-Type": "image/png"}},
        "raw clip": {"params": query, "content": file, "headers": {"Content-Type": "video/mp4"}},
        "unlabelled clip": {"params": query, "content": file},
        "raw npz": {"params": query, "content": npz, "headers": {"Content-Type": "application/x-npz"}},
        "unlabelled npz": {"params": query, "content": npz},
        "answer of encode in msgpack": {"params": query, "content": codes, "headers": packed},
        "answer of encode in JSON": {
            "params": query,
            "content": write_codes(tokens, "application/json"),
            "headers": JSON,
        },
        "form with a clip": {"files": {"media": ("x.mp4", file, "video/mp4")} | form},
        "form with tokens": {"files": {"media": ("x.npz", npz, "application/x-npz")} | form},
        "JSON with a clip": {"json": options | {"media": base64.b64encode(file).decode()}},
        "JSON with an array": {"json": options | {"array": text}},
        "JSON with tokens": {"json": options | {"codes": base64.b64encode(npz).decode()}},
        "msgpack with a clip": {"content": msgpack.packb(options | {"media": file}), "headers": packed},
        "msgpack with an array": {"content": msgpack.packb(options | {"array": pixels}), "headers": packed},
        "msgpack with tokens": {"content": msgpack.packb(options | {"codes": npz}), "headers": packed},
    }


@pytest.mark.parametrize("door", prefixes(EncodeResult(EncodeMeta(), np.zeros((1, 1, 1), np.int32))))
def test_a_prefix_is_continued(http: httpx.Client, server: Server, tokens: EncodeResult, door: str) -> None:
    response = http.post("/generate", **prefixes(tokens)[door])
    assert response.status_code == 200, response.text
    made, job = read_codes(response.content).tokens, server.generators.jobs[-1]
    assert made is not None
    assert job.prompt is not None
    assert (made[: len(job.prompt)] == job.prompt).all()
    assert (job.class_id, made.shape) == (1, (3, 4, 4))
    assert len(job.prompt) == (1 if door == "raw picture" else 2)
    if "tokens" in door or "npz" in door or "encode" in door:
        assert (job.prompt == tokens.tokens).all()
