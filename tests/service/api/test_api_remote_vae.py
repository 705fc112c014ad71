"""diffusers' protocol of remote VAEs: its own client sees the pixels and latents that the project's client sees."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from api_media import picture
from api_server import VAE, VQ, Server
from diffusers.utils.remote_utils import remote_decode, remote_encode
from diffusers.video_processor import VideoProcessor
from PIL import Image

from service.client import Client

RNG = np.random.default_rng(3)
SCALE = 0.5  # exact in half precision


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    with Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def endpoints(server: Server) -> tuple[str, str]:
    return f"{server.url}/vae/encode", f"{server.url}/vae/decode"


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def signed(pixels: np.ndarray) -> torch.Tensor:
    """Return uint8 (..., 3) as floats in [-1, 1] with the channels in front.

    They are contiguous: diffusers sends freed memory of others.
    """
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0) / np.float32(127.5) - 1))


def test_a_picture_goes_the_same_way_as_with_the_projects_client(client: Client, endpoints: tuple[str, str]) -> None:
    image = Image.open(io.BytesIO(picture(height=21, width=30)))
    result = client.encode(image, model=VAE.id)
    latents = remote_encode(endpoints[0], image, scaling_factor=SCALE, shift_factor=0.25)
    expected = (torch.from_numpy(np.array(result.latents[0])).permute(2, 0, 1) - 0.25) * SCALE
    assert latents.shape == (1, 3, 3, 4)
    assert torch.equal(latents[0], expected)
    options = {"scaling_factor": SCALE, "shift_factor": 0.25, "height": 21, "width": 30}
    pixels = client.decode(result)[0]
    png = remote_decode(endpoints[1], latents, image_format="png", **options)
    assert np.array_equal(np.array(png), pixels)
    jpeg = remote_decode(endpoints[1], latents, **options)
    assert (jpeg.format, jpeg.size) == ("jpeg", (30, 21))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_batch_of_tensors_comes_back_in_every_form(client: Client, endpoints: tuple[str, str], dtype: Any) -> None:
    pixels = noise(2, 16, 24, 3)
    latents = remote_encode(endpoints[0], torch.stack([signed(item) for item in pixels]))
    for item, expected in zip(latents, client.encode_many(list(pixels), model=VAE.id), strict=True):
        assert np.array_equal(item.permute(1, 2, 0).numpy(), expected.latents[0])
    sent = latents.to(dtype)
    results = client.encode_many(list(pixels), model=VAE.id)
    shown = np.stack([client.decode(_with(result, item))[0] for result, item in zip(results, sent, strict=True)])
    options = {"do_scaling": False, "output_type": "pt", "return_type": "pt"}
    uint8 = remote_decode(endpoints[1], sent, partial_postprocess=True, **options)
    assert np.array_equal(uint8.numpy(), shown)
    floats = remote_decode(endpoints[1], sent, **options)
    assert floats.shape == (2, 3, 16, 24)
    back = ((floats.float() / 2 + 0.5) * 255).round().to(torch.uint8)
    assert np.array_equal(back.permute(0, 2, 3, 1).numpy(), shown)


def _with(result: Any, latents: torch.Tensor) -> Any:
    """Return the result with other latents (c, h, w)."""
    return type(result)(result.meta, None, latents.permute(1, 2, 0)[None].float().numpy())


def test_a_clip_comes_back_as_frames_a_tensor_or_a_file(client: Client, endpoints: tuple[str, str]) -> None:
    pixels = noise(5, 16, 16, 3)
    latents = remote_encode(endpoints[0], signed(pixels)[None])
    assert latents.shape == (1, 3, 2, 2, 2)
    shown = client.decode(client.encode(pixels, model=VAE.id))
    processor = VideoProcessor(vae_scale_factor=8)
    frames = remote_decode(endpoints[1], latents, processor, do_scaling=False)
    assert np.array_equal(np.stack(frames), shown)
    video = remote_decode(endpoints[1], latents, processor, do_scaling=False, output_type="pt")
    assert np.array_equal(np.stack(video), shown)
    file = remote_decode(endpoints[1], latents, do_scaling=False, output_type="mp4", return_type="mp4")
    assert file[4:8] == b"ftyp"
    with pytest.raises(RuntimeError, match="output_type=pt"):
        remote_decode(endpoints[1], latents, do_scaling=False)


def test_a_bundle_is_named_in_the_endpoint(endpoints: tuple[str, str], client: Client) -> None:
    pixels = noise(16, 16, 3)
    latents = remote_encode(f"{endpoints[0]}?model={VQ.id}", signed(pixels)[None])
    made = remote_decode(f"{endpoints[1]}?model={VQ.id}", latents, do_scaling=False, image_format="png")
    assert np.array_equal(np.array(made), client.decode(client.encode(pixels, model=VQ.id, output="latents"))[0])
    with pytest.raises(RuntimeError, match="The models here are"):
        remote_encode(f"{endpoints[0]}?model=none", signed(pixels)[None])


@pytest.mark.parametrize(
    ("path", "query", "size", "code"),
    [
        ("decode", "shape=1&shape=64&shape=64&dtype=float32", 16384, "invalid-tensor"),  # packed
        ("decode", "shape=1&shape=3&shape=2&shape=2&dtype=uint8", 12, "invalid-tensor"),
        ("decode", "shape=1&shape=3&shape=2&shape=2&dtype=float32", 44, "invalid-tensor"),
        ("decode", "shape=1&shape=4&shape=2&shape=2&dtype=float32", 64, "invalid-tensor"),  # channels
        ("decode", "shape=1&shape=3&shape=2&shape=2&dtype=float64", 96, "invalid-options"),
        ("decode", "shape=1&shape=3&shape=2&shape=2&dtype=float32&scaling_factor=0", 48, "invalid-options"),
        ("decode", "shape=2&shape=3&shape=2&shape=2&dtype=float32", 96, "not-acceptable"),  # two in one picture
        ("decode", "shape=65&shape=3&shape=1&shape=1&dtype=float32", 780, "body-too-large"),  # items
        ("decode", "shape=1&shape=3&shape=65&shape=65&dtype=float16", 25350, "too-many-tokens"),
        ("decode", "shape=1&shape=3&shape=28&shape=28&dtype=float32&output_type=pt", 9408, "not-acceptable"),  # bytes
        ("decode", "shape=65&shape=3&shape=1&shape=1&dtype=float32", 4, "body-too-large"),  # which the options say
        ("encode", "shape=65&shape=3&shape=1&shape=1&dtype=uint8", 195, "too-many-frames"),
        ("encode", "shape=9&shape=3&shape=176&shape=176&dtype=bfloat16", 1672704, "body-too-large"),
        ("encode", "shape=9&shape=3&shape=200&shape=200&dtype=uint8", 1080000, "body-too-large"),
        ("encode", "shape=1&shape=3&shape=300&shape=300&dtype=uint8", 270000, "too-many-pixels"),
        ("decode", "dtype=float32", 16, "invalid-options"),
        ("encode", "dtype=float32", 16, "invalid-options"),
        ("encode", "shape=1&shape=4&shape=8&shape=8&dtype=uint8", 256, "invalid-tensor"),
        ("encode", "", 16, "unsupported-media-type"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anybody_computes(
    server: Server, http: httpx.Client, path: str, query: str, size: int, code: str
) -> None:
    calls = server.backend.calls
    answer = http.post(f"/vae/{path}?{query}", content=bytes(size))
    assert server.backend.calls == calls
    assert answer.json()["code"] == code, answer.text
    assert answer.status_code < 500


@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_pixels_out_of_range_are_refused_with_the_remedy(endpoints: tuple[str, str], value: float) -> None:
    with pytest.raises(RuntimeError, match="Scale them, or send uint8"):
        remote_encode(endpoints[0], torch.full((1, 3, 8, 8), value))
