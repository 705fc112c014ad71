"""Many items in one body: each gets the answer, or the refusal, that it gets alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from api_media import picture, scene
from api_server import VQ, Server

from service.errors import ProblemError
from service.formats.media_types import MSGPACK
from service.formats.msgpack import pack, unpack
from service.formats.tensors import pack_tensor, unpack_tensor
from service.settings import Limits, Settings
from service.types import Decoded, Encoded, Timing

LIMITS = Limits(body_items=8, tokens=200)
PICTURES = [scene(1, 16, 24), scene(5, 24, 24), scene(1, 8, 8)]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with Server(Settings(limits=LIMITS)) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def post(http: httpx.Client, path: str, body: dict[str, Any], accept: str = MSGPACK) -> httpx.Response:
    return http.post(path, content=pack(body), headers={"Content-Type": MSGPACK, "Accept": accept})


def items_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.content
    assert response.headers["content-type"] == MSGPACK
    items: list[dict[str, Any]] = unpack(response.content, 2**20)["items"]
    return items


def array(pixels: Any) -> dict[str, Any]:
    return {"array": pack_tensor(pixels)}


def untimed(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ("id", "timing")}


def test_items_are_encoded_and_decoded_as_they_are_alone(http: httpx.Client) -> None:
    sent = [array(pixels) for pixels in PICTURES]
    encoded = items_of(post(http, "/encode?output=both", {"items": sent}))
    for item, answer in zip(sent, encoded, strict=True):
        alone = unpack(post(http, "/encode?output=both", item).content, 2**20)
        assert untimed(alone) == untimed(answer)
    decoded = items_of(post(http, "/decode", {"items": encoded}, accept="*/*"))
    for pixels, item, answer in zip(PICTURES, encoded, decoded, strict=True):
        assert answer == unpack(post(http, "/decode", item).content, 2**20)
        assert unpack_tensor(answer["pixels"], "pixels").shape == pixels.shape
        assert answer["bundle"] == VQ.hash


def test_options_are_those_of_all_items(http: httpx.Client) -> None:
    body = {"items": [{"media": picture()}] * 2, "options": {"size": 16}}
    assert [item["grid"] for item in items_of(post(http, "/encode", body))] == [[1, 2, 2]] * 2


def test_each_refusal_is_that_of_its_item(http: httpx.Client) -> None:
    scaled = PICTURES[0].astype(np.float32)
    bad: list[Any] = [
        array(scaled),
        {"media": b"not a picture"},
        {"nothing": 1},
        "text",
        array(PICTURES[0]) | {"options": {}},
    ]
    first, *refused, last = items_of(post(http, "/encode", {"items": [array(PICTURES[0]), *bad, array(PICTURES[2])]}))
    assert first["grid"] == [1, 2, 3]
    assert last["grid"] == [1, 1, 1]
    codes = ["invalid-tensor", "unsupported-media-type", "missing-part", "malformed-body", "malformed-body"]
    assert [item["problem"]["code"] for item in refused] == codes
    alone = post(http, "/encode", bad[0])
    assert refused[0]["problem"]["detail"] == alone.json()["detail"]
    assert refused[0]["problem"]["status"] == alone.status_code
    answers = items_of(post(http, "/decode", {"items": [first, {"tokens": first["tokens"], "colour": 1}]}))
    assert "pixels" in answers[0]
    assert answers[1]["problem"]["code"] == "invalid-options"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/encode", {"items": []}, "missing-part"),
        ("/encode", {"items": {}}, "malformed-body"),
        ("/encode", {"items": [array(PICTURES[2])], "media": b""}, "malformed-body"),
        ("/encode", {"items": [array(PICTURES[2])] * 9}, "body-too-large"),
        ("/encode?nonsense=1", {"items": [array(PICTURES[2])]}, "invalid-options"),
        ("/reconstruct", {"items": [array(PICTURES[2])]}, "missing-part"),
        ("/decode", {"items": []}, "missing-part"),
    ],
)
def test_a_body_is_refused_as_a_whole(http: httpx.Client, path: str, body: dict[str, Any], code: str) -> None:
    assert post(http, path, body).json()["code"] == code


def test_only_msgpack_holds_many_answers(http: httpx.Client) -> None:
    refused = post(http, "/encode", {"items": [array(PICTURES[2])]}, accept="application/x-npz")
    assert refused.json()["code"] == "not-acceptable"


def test_positions_of_all_items_are_bounded_together(http: httpx.Client) -> None:
    large = np.zeros((1, 80, 80, 3), np.uint8)  # 100 positions
    answers = items_of(post(http, "/encode", {"items": [array(large)] * 3}))
    assert [answer.get("problem", {}).get("code") for answer in answers] == [None, None, "too-many-tokens"]
    assert answers[2]["problem"]["actual"] == 300
    decoded = items_of(post(http, "/decode", {"items": [answers[0]] * 3}))
    assert [answer.get("problem", {}).get("code") for answer in decoded] == [None, None, "too-many-tokens"]


def test_the_work_of_all_batches_is_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    with Server(Settings()) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        encode, decode = server.backend.encode, server.backend.decode
        monkeypatch.setattr(server.counts, "observe", lambda request: seen.append(request.notes))

        async def slow_encode(model: str, pixels: Any, *arguments: Any, **options: Any) -> Encoded:
            timing = Timing(7.0, 100.0 * pixels.shape[1], 2)
            return replace(await encode(model, pixels, *arguments, **options), timing=timing)

        async def slow_decode(model: str, codes: Any, size: Any, **options: Any) -> Decoded:
            return replace(await decode(model, codes, size, **options), timing=Timing(7.0, 100.0 * size[1], 2))

        monkeypatch.setattr(server.backend, "encode", slow_encode)
        monkeypatch.setattr(server.backend, "decode", slow_decode)
        encoded = items_of(post(client, "/encode", {"items": [array(scene(1, side, 8)) for side in (8, 8, 16)]}))
        items_of(post(client, "/decode", {"items": encoded}))
    assert [(notes["queue_ms"], notes["compute_ms"], notes["batch"]) for notes in seen] == [(7.0, 2400.0, 2)] * 2


def test_a_full_queue_refuses_the_body_unless_an_item_has_another_answer() -> None:
    async def refuse() -> None:
        raise ProblemError("overloaded", "The queue is full.", 1, 2, [], 2.0)

    with Server(Settings()) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        server.backend.stall = refuse
        whole = post(client, "/encode", {"items": [array(pixels) for pixels in PICTURES]})
        assert (whole.status_code, whole.headers["Retry-After"]) == (503, "2")
        assert whole.json()["code"] == "overloaded"
        answers = items_of(post(client, "/encode", {"items": [array(PICTURES[0]), "text"]}))
        assert [answer["problem"]["code"] for answer in answers] == ["overloaded", "malformed-body"]
