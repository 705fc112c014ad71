"""Generation on the real cluster: the network's samples, progress as it happens, and callers that leave."""

from __future__ import annotations

import asyncio
import io

import httpx
import numpy as np
from cluster_service import Service, eventually
from PIL import Image

from service.formats.codes import read_codes
from service.formats.media_types import MSGPACK

FRAME = 16  # codes of a latent frame


def tokens(http: httpx.Client, query: str) -> np.ndarray:
    answer = http.post(f"/generate?{query}&output=tokens", headers={"Accept": MSGPACK})
    assert answer.status_code == 200, answer.text
    made = read_codes(answer.content, MSGPACK).tokens
    assert made is not None
    return made


def test_a_class_becomes_a_picture_and_every_replica_makes_the_same(service: Service, http: httpx.Client) -> None:
    answer = http.post("/generate?class=bee&seed=3")
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == (32, 32)
    first = tokens(http, "class=bee&seed=3")
    for _ in range(6):
        np.testing.assert_array_equal(tokens(http, "class=bee&seed=3"), first)
    assert not np.array_equal(tokens(http, "class=bee&seed=4"), first)
    eventually(lambda: service.total("tokens_generated_total", kind="lm") >= 9 * FRAME)
    eventually(lambda: service.total("generate_steps_total", kind="lm") >= 2 * FRAME)


def test_an_idempotency_key_draws_one_sample_whichever_replica_answers(service: Service) -> None:
    def post(name: str, key: str) -> httpx.Response:
        return httpx.post(f"{service.url}/generate?class={name}", headers={"Idempotency-Key": key}, timeout=60)

    eventually(lambda: post("bee", "first").status_code == 200)  # which starts the store of keys
    answers = [post("bee", "one-bee") for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({(answer.headers["x-omnitok-seed"], answer.content) for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, *["true"] * 5]
    other = post("ant", "one-bee")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-conflict")


def test_a_clip_tells_of_its_progress(http: httpx.Client) -> None:
    stream = {"Accept": "text/event-stream"}
    with http.stream("POST", "/generate?class=0&frames=17&n=4", headers=stream) as answer:
        assert answer.status_code == 200, answer.read()
        names = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
    assert names[:2] == ["accepted", "started"]
    assert "progress" in names
    assert names.count("result") == 4


def test_a_caller_that_leaves_takes_its_samples_along(service: Service, http: httpx.Client) -> None:
    async def impatient() -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            stream = {"Accept": "text/event-stream"}
            async with client.stream("POST", "/generate?class=0&frames=17&n=64", headers=stream) as answer:
                async for line in answer.aiter_lines():
                    if line == "event: started":
                        return
                raise AssertionError(f"{answer.status_code}: the stream ended before it started")

    def took_some_along() -> bool:
        """On a busy machine all samples may be made before their caller has left."""
        samples = service.total("samples_generated_total")
        ended = service.total("http_requests_total", route="/generate")
        asyncio.run(impatient())
        eventually(lambda: service.total("http_requests_total", route="/generate") > ended)
        eventually(lambda: service.metrics("generate_slots_in_use") != {})
        eventually(lambda: service.total("generate_slots_in_use") == service.total("generate_queue_samples") == 0)
        return service.total("samples_generated_total") < samples + 64

    eventually(took_some_along)
    assert http.post("/generate?class=0").status_code == 200
