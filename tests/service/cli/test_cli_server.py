"""The command and the client against the real HTTP tier: the same files and numbers as without a server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from media.write import encode_video
from model.bundle import load_bundle
from service.client import Client, ServiceError
from service.formats.codes import read_codes
from service.formats.media_types import NPZ

Omnitok = Callable[..., Any]


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server, retries=0) as connection:
        yield connection


@pytest.mark.parametrize("name", ["picture.png", "picture.npy", "clip.mp4", "clip.webm", "clip.npy"])
@pytest.mark.parametrize("options", ["", "--size 16x24 --frames 7 --fit stretch"])
def test_a_server_gives_the_tokens_of_offline_work(omnitok: Omnitok, server: str, name: str, options: str) -> None:
    assert omnitok(f"encode {{m}}/{name} -b {{b}}/debug -o here.npz {options}").code == 0
    assert omnitok(f"encode {{m}}/{name} --server {server} -o there.npz {options}").code == 0
    here, there = (read_codes(Path(f"{place}.npz").read_bytes(), NPZ) for place in ("here", "there"))
    np.testing.assert_array_equal(here.tokens, there.tokens)
    for field in ("model", "bundle", "kind", "grid", "codebook_size", "size"):
        assert getattr(here.meta, field) == getattr(there.meta, field)
    if not name.endswith(".npy"):
        assert here.meta.fps == pytest.approx(there.meta.fps)
        assert here.meta.preprocess == there.meta.preprocess
        assert here.meta.source == there.meta.source


@pytest.mark.parametrize(("name", "suffix"), [("picture.png", "png"), ("clip.mp4", "mp4"), ("clip.npy", "npy")])
def test_tokens_made_there_decode_here_and_back(omnitok: Omnitok, server: str, name: str, suffix: str) -> None:
    assert omnitok(f"encode {{m}}/{name} --server {server} -o tokens.msgpack").code == 0
    assert omnitok(f"decode tokens.msgpack -b {{b}}/debug -o here.{suffix}").code == 0
    assert omnitok(f"decode tokens.msgpack --server {server} -o there.{suffix}").code == 0
    here, there = Path(f"here.{suffix}").read_bytes(), Path(f"there.{suffix}").read_bytes()
    if suffix == "mp4":
        assert len(here) == pytest.approx(len(there), rel=0.1)
    else:
        assert here == there


@pytest.mark.parametrize(("model", "content"), [("debug", "tokens"), ("vae", "latents")])
def test_a_long_video_streams_there_and_back(omnitok: Omnitok, server: str, model: str, content: str) -> None:
    """It has more frames than one request may."""
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    Path("film.mp4").write_bytes(encode_video((np.roll(picture, step, 1) for step in range(150)), "video/mp4", 25))
    assert omnitok(f"encode film.mp4 -b {{b}}/{model} -o here.npz").code == 0
    assert omnitok(f"encode film.mp4 --server {server} --model {model} -o there.npz").code == 0
    here, there = (read_codes(Path(f"{place}.npz").read_bytes(), NPZ) for place in ("here", "there"))
    np.testing.assert_allclose(getattr(here, content), getattr(there, content), rtol=0, atol=2e-5)
    for field in ("model", "bundle", "kind", "grid", "codebook_size", "size", "fps", "preprocess"):
        assert getattr(here.meta, field) == getattr(there.meta, field)
    assert omnitok(f"decode there.npz -b {{b}}/{model} -o here.npy").code == 0
    assert omnitok(f"decode there.npz --server {server} -o there.npy").code == 0
    np.testing.assert_allclose(np.load("there.npy").astype(int), np.load("here.npy"), atol=1)


def test_what_is_too_long_and_cannot_stream_is_refused_for_its_length(omnitok: Omnitok, server: str) -> None:
    pictures = np.zeros((140, 8, 8, 3), np.uint8)
    pictures[:, 0, 0, 0] = range(140)
    Path("film.gif").write_bytes(encode_video(pictures, "image/gif", 10))
    run = omnitok(f"encode film.gif --animated --server {server} -o x.npz")
    assert (run.code, "too-many-frames" in run.err) == (1, True)


def test_a_chosen_model_and_its_latents(omnitok: Omnitok, server: str) -> None:
    assert omnitok(f"encode {{m}}/picture.png --server {server} --model vae -o there.safetensors").code == 0
    assert omnitok("decode there.safetensors -b {b}/vae -o p.png").code == 0
    with Image.open("p.png") as picture:
        assert picture.size == (50, 35)


def test_reconstruct_scores_the_same(omnitok: Omnitok, server: str) -> None:
    line = "reconstruct {m}/picture.png {m}/clip.mp4 --size 16x24"
    here, there = omnitok(f"{line} -b {{b}}/debug"), omnitok(f"{line} --server {server}")
    assert there.code == 0
    assert here.out == there.out


def test_models_lists_what_is_served(omnitok: Omnitok, server: str) -> None:
    run = omnitok(f"models --server {server}")
    assert run.code == 0
    assert "debug" in run.out
    assert "vae" in run.out


@pytest.mark.parametrize(
    "line", ["models", "jobs list", "encode {m}/picture.png -o x.npz", "generate --class 0 -o x.png"]
)
def test_a_service_that_does_not_answer_is_asked_once(omnitok: Omnitok, line: str) -> None:
    closed: list[int] = []

    def close_each() -> None:
        while True:
            connection, (_, port) = listener.accept()
            connection.close()
            if port == last.getsockname()[1]:
                return
            closed.append(port)

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as last:
        last.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=close_each)
        thread.start()
        address = listener.getsockname()
        run = omnitok(f"{line} --server http://127.0.0.1:{address[1]}")
        last.connect(address)
        thread.join()
    assert (run.code, len(closed)) == (1, 1)
    assert "cannot be reached" in run.err
    assert "Check that the service runs." in run.err


def test_what_is_not_a_service_is_said_to_be_none(omnitok: Omnitok) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html>")

    with HTTPServer(("127.0.0.1", 0), Page) as other:
        thread = threading.Thread(target=other.handle_request)
        thread.start()
        run = omnitok(f"models --server http://127.0.0.1:{other.server_port}")
        thread.join()
    assert (run.code, "is not a service of omnitok" in run.err) == (1, True)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--server http://[::1", "http://[::1 is not the address of a service: Invalid"),
        ("--server http://127.0.0.1:9 --api-key k\N{EN DASH}1", "Copy it once more"),
    ],
)
def test_an_address_or_a_key_that_cannot_be_one_is_refused(omnitok: Omnitok, option: str, words: str) -> None:
    run = omnitok(f"models {option}")
    assert (run.code, words in run.err) == (1, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("encode {m}/picture.png --model nothing -o x.npz", "unknown-model"),
        ("encode {m}/picture.png --model vae --output tokens -o x.npz", "invalid-options"),
        ("encode {m}/clip.mp4 --start 99 -o x.npz", "invalid-options"),
        ("decode whole.npz -o x.mp4", "model-mismatch"),
        ("decode clip.npz -o x.png", "not-acceptable"),
    ],
)
def test_a_refusal_is_told_with_its_code(omnitok: Omnitok, server: str, line: str, words: str) -> None:
    omnitok("encode {m}/clip.npy -b {b}/whole -o whole.npz")
    omnitok("encode {m}/clip.npy -b {b}/debug -o clip.npz")
    run = omnitok(f"{line} --server {server}")
    assert run.code == 1
    assert run.err.count("\n") == 1
    assert words in run.err
    assert sorted(path.name for path in Path().iterdir()) == ["clip.npz", "whole.npz"]


def test_the_client_takes_bytes_files_and_arrays(client: Client, media: Path) -> None:
    path = media / "picture.png"
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    results = [client.encode(given) for given in (path, path.read_bytes(), pixels, pixels[None])]
    for result in results:
        np.testing.assert_array_equal(result.tokens, results[0].tokens)


def test_the_client_gives_pixels_or_bytes(client: Client, media: Path, bundles: Path) -> None:
    result = client.encode(media / "clip.mp4", frames=5)
    pixels = client.decode(result)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (5, 32, 42, 3))
    assert client.decode(result, accept="video/webm")[:4] == b"\x1a\x45\xdf\xa3"
    assert client.decode(result, accept="image/gif", fps=5)[:4] == b"GIF8"
    np.testing.assert_array_equal(client.reconstruct(media / "clip.mp4", frames=5), pixels)
    assert result.tokens is not None
    bare = client.decode(result.tokens, bundle=load_bundle(bundles / "debug").hash, frames=5, height=32, width=42)
    np.testing.assert_array_equal(bare, pixels)
    latents = client.encode(media / "clip.mp4", model="vae", frames=5).latents
    assert latents is not None
    assert client.decode(latents, bundle=load_bundle(bundles / "vae").hash).shape == (5, 32, 48, 3)


def test_the_client_tells_what_is_served(client: Client, bundles: Path) -> None:
    assert client.ready()
    cards = client.models()
    assert [card.id for card in cards] == ["debug", "vae"]
    assert cards[0].hash == load_bundle(bundles / "debug").hash
    assert client.limits()["kept_frames"] == 129


def test_the_client_raises_the_problem(client: Client) -> None:
    with pytest.raises(ServiceError) as caught:
        client.encode(b"not an image")
    assert caught.value.status == 415
    assert caught.value.problem is not None
    assert caught.value.code == "unsupported-media-type"
    with pytest.raises(ServiceError) as caught:
        client.decode(np.zeros((1, 2, 2), np.uint16))
    assert caught.value.code == "invalid-options"


def test_a_file_over_the_limit_is_refused(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(21 * 2**20)
    with pytest.raises(ServiceError) as caught:
        client.encode(path)
    assert caught.value.code == "body-too-large"
