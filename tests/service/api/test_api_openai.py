"""The shape of OpenAI's interface, by its own client and by hand."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import openai
import pytest
from api_server import VQ, Server
from PIL import Image


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def shown(image: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image.b64_json)))


def test_its_client_makes_pictures(client: openai.OpenAI, http: httpx.Client) -> None:
    made = client.images.generate(
        model="toy-lm",
        prompt="class:1",
        n=2,
        size="32x32",
        response_format="b64_json",
        quality="standard",
        extra_body={"seed": 5, "guidance_scale": 3.0},
    )
    assert made.data
    assert [shown(image).size for image in made.data] == [(32, 32)] * 2
    assert [image.revised_prompt for image in made.data] == ["red fox"] * 2
    same = http.post("/generate", json={"class": 1, "seed": 5, "guidance": 3.0})
    assert base64.b64decode(made.data[0].b64_json or "") == same.content


@pytest.mark.parametrize("output_format", ["jpeg", "webp", "png"])
def test_its_client_chooses_the_form(client: openai.OpenAI, output_format: Any) -> None:
    made = client.images.generate(prompt="grey fox", output_format=output_format, output_compression=80)
    assert made.data
    assert (shown(made.data[0]).format or "").lower() == made.output_format == output_format


def test_its_client_lists_models(client: openai.OpenAI) -> None:
    models = [model.id for model in client.models.list()]
    assert models[0] == VQ.id
    assert {"toy-lm", "toy-dit"} <= set(models)
    assert client.models.retrieve("toy-lm").owned_by == "omnitok"


def test_its_client_is_refused_with_the_nearest_names(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="a watercolour of a red fox")
    assert "`red fox`" in refused.value.message
    assert (refused.value.param, refused.value.code) == ("prompt", "unknown-class")


def test_its_client_hears_of_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="toy-lm"):
        client.images.generate(prompt="0", model="dall-e-3")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "prompt"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "class:99"}, 400, "prompt"),
        ({"prompt": 0, "n": 0}, 400, "n"),
        ({"prompt": 0, "n": 11}, 400, "n"),
        ({"prompt": 0, "size": "64x64"}, 400, "size"),
        ({"prompt": 0, "response_format": "url"}, 400, "response_format"),
        ({"prompt": 0, "output_format": "gif"}, 400, "output_format"),
        ({"prompt": 0, "stream": True}, 400, "stream"),
        ({"prompt": 0, "background": "transparent"}, 400, "background"),
        ({"prompt": 0, "seed": -1}, 400, "seed"),
        ({"prompt": 0, "seed": 2**70}, 400, "seed"),
        ({"prompt": 0, "guidance_scale": -1}, 400, "guidance_scale"),
        ({"prompt": 0, "num_inference_steps": 20}, 400, "num_inference_steps"),
        ({"prompt": 0, "temperature": -1}, 400, "temperature"),
        ({"prompt": 0, "model": "toy-lost"}, 400, "model"),
        ({"prompt": 0, "negative_prompt": "red"}, 400, "negative_prompt"),
        ({"prompt": 0, "model": "none"}, 404, "model"),
    ],
)
def test_errors_have_its_shape(http: httpx.Client, body: dict[str, Any], status: int, param: str | None) -> None:
    response = http.post("/v1/images/generations", json=body)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["message"]
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"", {"Content-Type": "application/json"}, 400),
        (b"prompt=0", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"Content-Type": "application/json", "Content-Encoding": "br"}, 415),
        (b"{}", {"Content-Type": "application/json", "Accept": "png"}, 400),
    ],
)
def test_bad_bodies_have_its_shape(http: httpx.Client, content: bytes, headers: dict[str, str], status: int) -> None:
    response = http.post("/v1/images/generations", content=content, headers=headers)
    assert response.status_code == status
    assert response.json()["error"]["message"]
