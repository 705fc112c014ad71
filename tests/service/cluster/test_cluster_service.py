"""The whole service over real HTTP: the answers are the network's own, and the exporter tells what happened."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import av
import httpx
import numpy as np
import pytest
import torch
from api_media import clip, picture, scene
from cluster_service import Service, eventually
from listeners import open_listeners
from PIL import Image

from service.formats.codes import read_codes
from service.formats.msgpack import pack
from service.formats.result import EncodeResult
from service.formats.tensors import pack_tensor

MSGPACK = "application/msgpack"


def encode(http: httpx.Client, body: bytes, media_type: str, query: str = "") -> tuple[bytes, EncodeResult]:
    answer = http.post(f"/encode{query}", content=body, headers={"Content-Type": media_type, "Accept": MSGPACK})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == MSGPACK
    return answer.content, read_codes(answer.content, MSGPACK)


def decode(http: httpx.Client, tokens: bytes, accept: str) -> bytes:
    answer = http.post("/decode", content=tokens, headers={"Content-Type": MSGPACK, "Accept": accept})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == accept
    return answer.content


@pytest.mark.parametrize(("form", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg")])
def test_a_picture_becomes_the_networks_tokens_and_a_picture_again(
    service: Service, http: httpx.Client, form: str, media_type: str
) -> None:
    body = picture(form, 45, 67)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(body)).convert("RGB")))[None, None]
    packed, result = encode(http, body, media_type)
    with torch.inference_mode():
        expected = service.tokenizer.encode(pixels)
        back = service.tokenizer.decode(expected, (1, 45, 67))
    assert result.meta.bundle == service.card.hash
    assert result.tokens is not None
    np.testing.assert_array_equal(result.tokens, expected[0].numpy())
    shown = np.array(Image.open(io.BytesIO(decode(http, packed, "image/png"))))
    np.testing.assert_array_equal(shown, back[0, 0].numpy())


def test_a_clip_becomes_tokens_and_a_clip_again(service: Service, http: httpx.Client) -> None:
    packed, result = encode(http, clip(frames=9, height=48, width=64), "video/mp4")
    assert result.grid == (3, 6, 8)
    assert result.tokens is not None
    with torch.inference_mode():
        tokens = torch.from_numpy(result.tokens.astype(np.int64))[None]
        expected = service.tokenizer.decode(tokens, (9, 48, 64))[0].numpy()
    raw = np.load(io.BytesIO(decode(http, packed, "application/x-npy")))
    np.testing.assert_array_equal(raw, expected)
    with av.open(io.BytesIO(decode(http, packed, "video/mp4")), format="mp4") as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert np.stack(frames).shape == (9, 48, 64, 3)


def test_raw_frames_latents_and_reconstruction_agree(service: Service, http: httpx.Client) -> None:
    pixels = scene(5, 24, 40)
    body = pack({"array": pack_tensor(pixels)})
    packed, result = encode(http, body, MSGPACK, "?output=both")
    with torch.inference_mode():
        batch = torch.from_numpy(pixels)[None]
        latents, rebuilt = service.tokenizer.encode_latents(batch), service.tokenizer.reconstruct(batch)
    assert result.latents is not None
    np.testing.assert_allclose(result.latents, latents[0].numpy(), atol=1e-5)
    answer = http.post("/reconstruct", content=body, headers={"Content-Type": MSGPACK, "Accept": "application/x-npy"})
    assert answer.status_code == 200, answer.text
    reconstruction = np.load(io.BytesIO(answer.content))
    np.testing.assert_array_equal(reconstruction, rebuilt[0].numpy())
    np.testing.assert_array_equal(np.load(io.BytesIO(decode(http, packed, "application/x-npy"))), reconstruction)


def test_the_codebook_and_the_page_come_through_the_cluster(service: Service, http: httpx.Client) -> None:
    head = service.tokenizer.head
    answer = http.get(f"/models/{service.card.id}/codebook")
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), head.codebook.detach().numpy())
    assert http.get("/models/none/codebook").json()["code"] == "unknown-model"
    page = http.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert http.get("/static/app.js").headers["content-type"].startswith("text/javascript")


def test_requests_of_one_shape_share_batches_and_get_their_own_answers(service: Service, http: httpx.Client) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (48, 1, 256, 256, 3), np.uint8)
    bodies = [pack({"array": pack_tensor(pixels)}) for pixels in pictures]

    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=120) as client:
            posts = (
                client.post("/encode", content=body, headers={"Content-Type": MSGPACK, "Accept": MSGPACK})
                for body in bodies
            )
            return await asyncio.gather(*posts)

    answers = asyncio.run(crowd())
    assert {answer.status_code for answer in answers} == {200}
    with torch.inference_mode():
        expected = [service.tokenizer.encode(torch.from_numpy(pixels)[None])[0].numpy() for pixels in pictures]
    for answer, tokens in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(read_codes(answer.content, MSGPACK).tokens, tokens)
    eventually(lambda: service.total("batch_requests_count") > service.total("batch_requests_bucket", le="1.0"))


def test_the_exporter_shows_every_replica_and_exact_sums(service: Service) -> None:
    bmp = {"Content-Type": "image/bmp"}  # no other test sends any
    names = (
        *("model_requests_total", "frames_total"),
        *("stage_duration_seconds_count", "queue_wait_seconds_count", "tokenizer_calls_total"),
    )
    service.idle()
    before = {name: service.total(name) for name in names}
    encoded = service.total("http_requests_total", route="/encode", method="POST", code="200")
    with httpx.Client(base_url=service.url, timeout=60) as client, ThreadPoolExecutor(8) as threads:
        posts = [threads.submit(client.post, "/encode", content=picture("BMP"), headers=bmp) for _ in range(16)]
        assert {post.result().status_code for post in posts} == {200}
        refusal = client.post("/encode", content=b"no picture", headers=bmp)
    service.idle()
    expected = dict.fromkeys(names, 16.0) | {"stage_duration_seconds_count": 4 * 16}
    assert {name: service.total(name) - before[name] for name in names} == expected
    assert service.total("http_requests_total", route="/encode", method="POST", code="200") == encoded + 16
    assert service.total("http_problems_total", problem=refusal.json()["code"]) >= 1
    eventually(lambda: service.total("media_results_total", container="bmp", result="ok") == 16)
    for name in ("queue_requests", "queue_age_seconds", "link_calls", "media_queue_files"):
        eventually(lambda name=name: len({dict(labels)["replica"] for labels in service.metrics(name)}) == 2)
    for deployment, wanted in {"Ingress": 2, "Tokenizer": 2, "JobOwner": 1}.items():
        eventually(lambda deployment=deployment, n=wanted: service.total("replicas", deployment=deployment) == n)
        assert service.total("replicas_wanted", deployment=deployment) == wanted
    routes = {dict(labels)["route"] for labels in service.metrics("http_requests_total")}
    assert {"/encode", "/health/ready"} <= routes


@pytest.mark.parametrize("given", [None, "mine-1", "not an id", "ä"])
def test_an_answer_carries_one_request_id(http: httpx.Client, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given.encode("latin-1")}
    answer = http.post("/encode", content=b"no picture", headers={b"Content-Type": b"image/png"} | headers)
    assert answer.status_code == 415, answer.text
    assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]
    assert (answer.json()["request_id"] == given) == (given == "mine-1")


def test_a_client_that_leaves_takes_its_work_along(service: Service, http: httpx.Client) -> None:
    body = pack({"array": pack_tensor(scene(5, 144, 144))})

    async def impatient() -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            headers = {"Content-Type": MSGPACK}
            tasks = [asyncio.create_task(client.post("/encode", content=body, headers=headers)) for _ in range(24)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def noticed() -> bool:
        asyncio.run(impatient())  # where all of them shared one batch, none was left to cancel
        return service.total("http_requests_total", code="499") > before

    before = service.total("http_requests_total", code="499")
    eventually(noticed)
    eventually(lambda: service.total("http_requests_in_flight") == 0 and service.total("queue_requests") == 0)
    assert http.post("/encode", content=picture(), headers={"Content-Type": "image/png"}).status_code == 200


def test_tokenizers_of_the_node_are_called_over_the_link(service: Service, http: httpx.Client) -> None:
    before = service.total("tokenizer_calls_total", way="link")
    encode(http, pack({"array": pack_tensor(scene(1, 16, 16))}), MSGPACK)
    eventually(lambda: service.total("tokenizer_calls_total", way="link") > before)


def test_others_reach_no_port_but_those_between_replicas(http: httpx.Client) -> None:
    """The API and its metrics are on loopback here, and so is all of Ray."""
    assert http.get("/health/ready").status_code == 200
    assert [owner for owner in open_listeners() if not owner[1].startswith("ray::ServeRepli")] == []
