"""Callers with and without keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_media import picture, scene
from api_server import Server
from bad_inputs import LIMITS
from waiting import eventually

from service.client import Client, ServiceError
from service.errors import ProblemError
from service.formats.media_types import MSGPACK
from service.formats.msgpack import pack
from service.formats.tensors import pack_tensor
from service.keys import new_key, write_keys
from service.settings import Settings

PNG = {"Content-Type": "image/png"}
CALLERS: dict[str, tuple[Any, int | None]] = {
    "encoder": (["encode"], None),
    "both": (["encode", "decode"], None),
    "admin": (["admin"], None),
    "small": (["encode"], 1000),
    "maker": (["generate"], 20),  # which are back in a minute
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    made = {name: new_key(name, scopes, budget) for name, (scopes, budget) in CALLERS.items()}
    write_keys(file, [key for _, key in made.values()])
    with Server(Settings(limits=LIMITS, keys=file, ingress_replicas=1)) as server:
        yield server, {name: secret for name, (secret, _) in made.items()}


@pytest.fixture
def http(service: tuple[Server, dict[str, str]]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service[0].url, timeout=60) as client:
        yield client


@pytest.fixture
def keys(service: tuple[Server, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {name: {"Authorization": f"Bearer {secret}"} for name, secret in service[1].items()}


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["code"]) == (status, code)
    return document


@pytest.mark.parametrize(
    "path",
    [
        "/health/live",
        "/health/ready",
        "/v1/health/live",
        "/docs",
        "/openapi.json",
        "/version",
        "/problems/unauthorized",
    ],
)
def test_probes_and_pages_are_public(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/models", "/v1/models", "/limits", "/classes", "/nothing", "/docs/", "/healthy", "/v1/v1/version"]
)
def test_all_else_needs_a_key(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    refused(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


def test_every_route_of_the_schema_is_public_or_closed(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method in operations:
            status = http.request(method, path.replace("{slug}", "internal").replace("{model_id}", "x")).status_code
            assert (status == 401) != path.startswith(("/health/", "/version", "/problems/")), (method, path)


def test_openapi_says_which_routes_need_a_key(http: httpx.Client, server: Server) -> None:
    schema = http.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert schema["paths"]["/encode"]["post"]["security"] == [{"key": []}]
    assert schema["paths"]["/health/ready"]["get"]["security"] == []
    without_keys = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    assert without_keys["paths"]["/encode"]["post"]["security"] == [{}, {"key": []}]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer nonsense", "Basic abc", "omnitok_x", "Bearer " + "é" * 9, "Bearer x" * 50],
)
def test_a_wrong_key_is_refused_before_the_body(http: httpx.Client, header: str) -> None:
    response = http.post("/encode", content=picture(), headers=[*PNG.items(), ("Authorization", header.encode())])
    refused(response, 401, "unauthorized")


def test_two_keys_are_none(http: httpx.Client, keys: dict[str, dict[str, str]]) -> None:
    twice = [*keys["both"].items(), *keys["admin"].items()]
    refused(http.get("/models", headers=twice), 401, "unauthorized")


def test_a_key_opens_its_scopes(http: httpx.Client, keys: dict[str, dict[str, str]]) -> None:
    for name, encodes, reconstructs in [("encoder", 200, 403), ("both", 200, 200), ("admin", 200, 200)]:
        assert http.get("/models", headers=keys[name]).status_code == 200
        assert http.post("/v1/encode", content=picture(), headers=PNG | keys[name]).status_code == encodes
        assert http.post("/reconstruct", content=picture(), headers=PNG | keys[name]).status_code == reconstructs
    document = refused(http.post("/generate", headers=keys["encoder"]), 403, "forbidden")
    assert "generate" in document["detail"]
    refused(http.post("/unknown", headers=keys["both"]), 403, "forbidden")
    refused(http.post("/unknown", headers=keys["admin"]), 404, "not-found")


def test_a_budget_is_charged_by_latent_positions(http: httpx.Client, keys: dict[str, dict[str, str]]) -> None:
    headers = PNG | keys["small"]
    began, charged = time.monotonic(), 0
    for side in (128, 256):  # the second leaves a debt of seconds, which no busy machine spends between two requests
        answer = http.post("/encode", content=picture(height=side, width=side), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-limit"] == "1000"
        charged += (side // 8) ** 2
        refilled = 1 + 1000 / 60 * (time.monotonic() - began)
        left = int(answer.headers["ratelimit-remaining"])
        assert max(0, 999 - charged) <= left <= max(0, 1000 - charged + refilled)
    response = http.post("/encode", content=picture(), headers=headers)
    document = refused(response, 429, "rate-limited")
    assert document["retry_after_seconds"] <= int(response.headers["retry-after"]) <= 60
    assert response.headers["ratelimit-remaining"] == "0"
    assert int(response.headers["ratelimit-reset"]) > 50
    assert http.get("/models", headers=keys["small"]).status_code == 200, "looking costs nothing"
    assert http.post("/encode", content=picture(), headers=PNG | keys["both"]).status_code == 200


def test_a_budget_is_not_charged_for_samples_that_a_full_queue_refused(
    service: tuple[Server, dict[str, str]], http: httpx.Client, keys: dict[str, dict[str, str]]
) -> None:
    async def refuse() -> None:
        raise ProblemError("overloaded", "The queue is full.", 1, 2, [], 2.0)

    service[0].generators.stall = refuse
    answer = http.post("/generate?class=0", headers=keys["maker"])
    service[0].generators.stall = None
    refused(answer, 503, "overloaded")
    assert answer.headers["ratelimit-remaining"] == "20"
    assert int(http.post("/generate?class=0", headers=keys["maker"]).headers["ratelimit-remaining"]) < 20


def test_clients_send_a_key(service: tuple[Server, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    server, secrets = service
    monkeypatch.delenv("OMNITOK_API_KEY", raising=False)
    with Client(server.url) as client:
        assert client.ready()
        with pytest.raises(ServiceError) as refusal:
            client.models()
        assert refusal.value.code == "unauthorized"
    with Client(server.url, api_key=secrets["encoder"]) as client:
        assert client.encode(picture()).tokens is not None
    monkeypatch.setenv("OMNITOK_API_KEY", secrets["encoder"])
    with Client(server.url) as client:
        assert client.models()
    with Client(server.url, headers={"authorization": "Bearer x"}) as client, pytest.raises(ServiceError):
        client.models()


def test_an_edit_of_the_file_holds_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret, key = new_key("app", ["encode"])
    write_keys(file, [])
    with Server(Settings(limits=LIMITS, keys=file)) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        headers = {"Authorization": f"Bearer {secret}"}
        refused(http.get("/models", headers=headers), 401, "unauthorized")
        write_keys(file, [key])
        eventually(lambda: http.get("/models", headers=headers).status_code == 200)


def test_media_workers_share_by_key_or_connection(
    service: tuple[Server, dict[str, str]],
    http: httpx.Client,
    keys: dict[str, dict[str, str]],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    for running in (service[0], server):
        decode = running.media.decode

        async def noted(data: Any, declared: Any, options: Any, caller: str = "", decode: Any = decode) -> Any:
            seen.append(caller)
            return await decode(data, declared, options, caller)

        monkeypatch.setattr(running.media, "decode", noted)
    assert http.post("/encode", content=picture(), headers=PNG | keys["both"]).status_code == 200
    assert httpx.post(f"{server.url}/encode", content=picture(), headers=PNG, timeout=60).status_code == 200
    assert seen[0] == "key both"
    assert seen[1].startswith("127.0.0.1:")


def test_work_that_is_refused_for_a_full_queue_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret, key = new_key("app", ["encode", "decode"], 1_000)
    write_keys(file, [key])

    async def refuse() -> None:
        raise ProblemError("overloaded", "The queue is full.")

    large = {"array": pack_tensor(scene(1, 128, 128))}
    with (
        Server(Settings(limits=LIMITS, keys=file, ingress_replicas=1)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        server.backend.stall = refuse
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": MSGPACK}
        for path, content in (("/encode", large), ("/encode", {"items": [large] * 2}), ("/reconstruct", large)):
            answer = http.post(path, content=pack(content), headers=headers)
            assert b"The queue is full." in answer.content
            assert int(answer.headers["ratelimit-remaining"]) == 1_000, path
