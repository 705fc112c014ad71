"""Both clients on the real HTTP tier: every kind of value that callers have in hand, options, headers and timeouts."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api_server import VAE, VQ, Server
from client_kinds import PICTURE, Connect, png
from PIL import Image
from waiting import eventually

from benchmarks.service.process import free_port
from service.client import (
    AsyncClient,
    Client,
    DecodeOptions,
    EncodeOptions,
    EncodeResult,
    ReconstructOptions,
    ServiceError,
)
from service.operations import options as requests

CLIP = np.stack([np.roll(PICTURE, 8 * step, 1) for step in range(5)])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(png())
    return path


FORMS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "string": str,
    "path-like": lambda path: next(entry for entry in os.scandir(path.parent) if entry.name == path.name),
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "stream": lambda path: io.BytesIO(path.read_bytes()),
    "PIL": lambda path: Image.open(path),
    "PIL palette": lambda path: Image.open(path).quantize(256),
    "array": lambda path: PICTURE,
    "array of another order": lambda path: np.asfortranarray(PICTURE),
    "tensor": lambda path: torch.from_numpy(PICTURE),
    "tensor, strided": lambda path: torch.from_numpy(np.ascontiguousarray(PICTURE.transpose(2, 0, 1))).movedim(0, -1),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_a_picture_gives_its_tokens(client: Client, picture: Path, form: str) -> None:
    expected = client.encode(picture)
    result = client.encode(FORMS[form](picture))
    np.testing.assert_array_equal(result.tokens, expected.tokens)
    assert result.meta.model == VQ.id


@pytest.mark.parametrize("clip", [CLIP, torch.from_numpy(CLIP)], ids=["array", "tensor"])
def test_clips_of_pixels_go_there_and_back(client: Client, clip: Any) -> None:
    result = client.encode(clip)
    assert result.grid == (2, 2, 3)
    pixels = client.decode(result)
    assert pixels.shape == CLIP.shape
    np.testing.assert_array_equal(pixels, client.reconstruct(clip))


def test_a_pil_picture_keeps_its_orientation_profile_and_transparency(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    picture = Image.fromarray(PICTURE)
    picture.putalpha(Image.fromarray(np.where(np.arange(24) < 8, 0, 255).astype(np.uint8)[None].repeat(16, 0)))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    expected = client.encode(path)
    assert expected.grid == (1, 3, 2)  # turned
    with Image.open(path) as opened:
        np.testing.assert_array_equal(client.encode(opened).tokens, expected.tokens)


@pytest.mark.parametrize(
    ("media", "kind", "remedy"),
    [
        (PICTURE / 255, TypeError, "float64.*255"),
        (torch.from_numpy(PICTURE).float(), TypeError, "float32.*255"),
        (torch.zeros(8, 8, 3, dtype=torch.bfloat16), TypeError, "255"),
        (PICTURE.astype(np.int64), TypeError, "int64.*uint8"),
        (np.ascontiguousarray(PICTURE.transpose(2, 0, 1)), ValueError, "moveaxis"),
        (torch.from_numpy(CLIP).permute(0, 3, 1, 2), ValueError, "movedim"),
        (CLIP[None], ValueError, "one by one"),
        (PICTURE[..., 0], ValueError, r"\(H, W, 3\)"),
        (Image.new("CMYK", (8, 8)), ValueError, "CMYK.*convert"),
        (io.StringIO("text"), TypeError, "binary mode"),
        (7, TypeError, "int.*path"),
        (None, TypeError, "NoneType"),
    ],
    ids=lambda value: "",
)
def test_what_cannot_be_sent_is_refused_with_a_remedy(
    client: Client, server: Server, media: Any, kind: type[Exception], remedy: str
) -> None:
    eventually(lambda: not any(server.counts.flying.values()))  # a request is counted after its answer
    before = server.counts.requests.total()
    with pytest.raises(kind, match=remedy):
        client.encode(media)
    assert server.counts.requests.total() == before


def test_an_animation_as_a_pil_picture_is_refused_only_when_its_frames_are_asked_for(client: Client) -> None:
    file = io.BytesIO()
    first, *others = map(Image.fromarray, CLIP)
    first.save(file, "GIF", save_all=True, append_images=others)
    with Image.open(file) as animation:
        assert client.encode(animation).grid[0] == 1
        with pytest.raises(ValueError, match="animation"):
            client.encode(animation, animated=True)
    assert client.encode(file.getvalue(), animated=True).grid[0] == 2


def test_a_missing_file_is_the_usual_error(client: Client) -> None:
    with pytest.raises(FileNotFoundError):
        client.encode("no such file.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_bare_tokens_of_any_integer_type_decode(client: Client, dtype: Any) -> None:
    tokens = np.arange(6).reshape(1, 2, 3)
    expected = client.decode(tokens, bundle=VQ.hash)
    np.testing.assert_array_equal(client.decode(tokens.astype(dtype), bundle=VQ.hash), expected)
    np.testing.assert_array_equal(client.decode(torch.from_numpy(tokens), bundle=VQ.hash), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bare_latents_of_any_float_type_decode(client: Client, dtype: torch.dtype) -> None:
    latents = torch.linspace(-0.5, 0.5, 18).reshape(1, 2, 3, 3).to(dtype).requires_grad_()
    expected = client.decode(latents.detach().float().numpy(), bundle=VAE.hash)
    np.testing.assert_array_equal(client.decode(latents, bundle=VAE.hash), expected)


def test_codes_that_are_not_numbers_are_refused(client: Client) -> None:
    with pytest.raises(TypeError, match=r"bool.*tokens"):
        client.decode(np.zeros((1, 2, 2), bool), bundle=VQ.hash)


def test_answers_are_of_the_type_that_was_asked_for(client: Client, picture: Path) -> None:
    result = client.encode(picture, output="both", model=VQ.id, size="24x16", fit="stretch")
    assert result.latents is not None
    assert result.grid == (1, 3, 2)
    with Image.open(io.BytesIO(client.decode(result, accept="image/png"))) as decoded:
        assert decoded.size == (16, 24)
    with Image.open(io.BytesIO(client.reconstruct(picture, accept="image/jpeg", quality=30))) as lossy:
        assert lossy.format == "JPEG"
    assert client.reconstruct(CLIP, accept="video/mp4", fps=12.5)[4:8] == b"ftyp"


def test_what_the_service_knows_of_itself(client: Client) -> None:
    assert [card.id for card in client.models()] == [VQ.id, VAE.id]
    assert client.limits()["kept_frames"] == 129
    assert client.ready() is True


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (requests.EncodeOptions, EncodeOptions),
        (requests.ReconstructOptions, ReconstructOptions),
        (requests.DecodeOptions, DecodeOptions),
    ],
)
def test_the_options_are_those_of_the_service(theirs: Any, ours: Any) -> None:
    assert set(ours.__annotations__) == set(theirs.model_fields) - {"bundle"}


def test_headers_travel_with_every_call(connect: Connect, server: Server, picture: Path) -> None:
    with connect(server.url, headers={"X-Request-ID": "named-1"}, retries=0) as client:
        assert client.encode(picture).meta.id == "named-1"
        with pytest.raises(ServiceError) as refused:
            client.encode(picture, model="none")
        assert refused.value.problem is not None
        assert refused.value.problem["request_id"] == "named-1"


def test_a_service_of_this_machine_is_not_asked_through_a_proxy(
    connect: Connect, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    with connect(server.url, retries=0) as client:
        assert client.ready()


def test_a_call_whose_answer_timed_out_is_not_repeated(connect: Connect, server: Server, picture: Path) -> None:
    server.backend.stall = asyncio.Event().wait  # type: ignore[assignment]
    eventually(lambda: not any(server.counts.flying.values()))
    before = server.counts.requests.total()
    waits: list[float] = []
    try:
        with connect(server.url, waits, timeout=0.4) as client, pytest.raises(ServiceError, match=r"Timeout|timed out"):
            client.encode(picture)
        eventually(lambda: server.counts.requests.total() > before)
        eventually(lambda: not any(server.counts.flying.values()))
    finally:
        server.backend.stall = None
    assert waits == []
    assert server.counts.requests.total() == before + 1


async def test_calls_of_one_asynchronous_client_share_their_time(server: Server) -> None:
    """Each call is answered only after all of them have arrived."""
    arrived = 0

    async def meet() -> None:
        nonlocal arrived
        arrived += 1
        while arrived < 4:
            await asyncio.sleep(0.01)

    server.backend.stall = meet
    try:
        async with AsyncClient(server.url, retries=0) as client:
            results: list[EncodeResult] = await asyncio.gather(*(client.encode(PICTURE) for _ in range(4)))
    finally:
        server.backend.stall = None
    assert all(np.array_equal(result.tokens, results[0].tokens) for result in results)
    eventually(lambda: server.counts.flying["/encode"] == 0)


def test_a_pickled_client_is_another_one_with_the_same_options(server: Server) -> None:
    with Client(server.url, retries=0, headers={"X-Request-ID": "mine"}) as client:
        copied = pickle.loads(pickle.dumps(client))
        with copied, pytest.raises(ServiceError) as refused:
            copied.job("none")
        assert client.ready()
    assert refused.value.problem["request_id"] == "mine"

    async def ask() -> bool:
        async with AsyncClient(server.url) as opened, pickle.loads(pickle.dumps(opened)) as another:
            return await another.ready()

    assert asyncio.run(ask())
