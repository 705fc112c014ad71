"""Pages of other origins: what a browser asks before it sends, and what it lets a page read."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from api_media import picture
from api_server import Server
from bad_inputs import LIMITS
from pydantic import ValidationError
from waiting import eventually

from service.settings import Settings

APP, OTHER = "https://app.example", "https://other.example"
PNG = {"Content-Type": "image/png"}
# What the Fetch standard lets pages read of any answer.
SAFELISTED = {
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
}
OF_THE_CONNECTION = {"date", "server", "vary", "connection"}


@pytest.fixture(scope="module")
def open_server() -> Iterator[Server]:
    with Server(Settings(limits=LIMITS, cors_origins=(APP,))) as running:
        yield running


@pytest.fixture
def browser(open_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=open_server.url, headers={"Origin": APP}, timeout=60) as client:
        yield client


def preflight(http: httpx.Client, origin: str, method: str = "POST", path: str = "/encode") -> httpx.Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "content-type,x-request-id"}
    return http.options(path, headers={"Origin": origin} | asked)


def readable(response: httpx.Response) -> bool:
    return response.headers.get("access-control-allow-origin") in (APP, "*")


def exposed(response: httpx.Response) -> set[str]:
    names = response.headers["access-control-expose-headers"].lower().split(",")
    return {name.strip() for name in names} | SAFELISTED | OF_THE_CONNECTION


def test_a_page_of_a_named_origin_may_send_and_read(browser: httpx.Client) -> None:
    allowed = preflight(browser, APP)
    assert allowed.status_code == 200
    assert readable(allowed)
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert {"content-type", "x-request-id"} <= set(allowed.headers["access-control-allow-headers"].lower().split(","))
    answer = browser.post("/encode", content=picture(), headers=PNG)
    assert answer.status_code == 200
    assert readable(answer)
    assert {part.strip() for part in answer.headers["vary"].split(",")} == {"Accept", "Origin"}


def test_every_header_of_an_answer_can_be_read(browser: httpx.Client, open_server: Server) -> None:
    async def fail() -> None:
        raise RuntimeError

    answers = [
        browser.post("/encode", content=picture(), headers=PNG),
        browser.post("/reconstruct", content=picture(), headers=PNG),
        browser.get("/models"),
        browser.get("/encode"),
        browser.post("/encode", content=b"x", headers=PNG),
        browser.post("/generate?class=0", headers={"Prefer": "respond-async"}),
    ]
    open_server.backend.stall = fail
    answers.append(browser.post("/encode", content=picture(), headers=PNG))
    open_server.backend.stall = None
    assert [answer.status_code for answer in answers] == [200, 200, 200, 405, 415, 202, 500]
    for answer in answers:
        assert readable(answer)
        ours = {name.lower() for name in answer.headers if not name.startswith("access-control-")}
        assert ours <= exposed(answer)


@pytest.mark.parametrize(("origin", "method"), [(OTHER, "POST"), (APP, "PATCH"), ("null", "POST")])
def test_a_preflight_that_is_refused_is_a_problem(browser: httpx.Client, origin: str, method: str) -> None:
    refused = preflight(browser, origin, method)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["code"] == "bad-header"
    assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert readable(refused) == (origin == APP)


def test_a_page_of_another_origin_reads_nothing(browser: httpx.Client) -> None:
    answer = browser.post("/encode", content=picture(), headers=PNG | {"Origin": OTHER})
    assert not readable(answer)


def test_any_origin_may_be_named(browser: httpx.Client) -> None:
    with (
        Server(Settings(limits=LIMITS, cors_origins=("*",))) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert preflight(http, OTHER).headers["access-control-allow-origin"] == "*"
        assert readable(http.get("/limits", headers={"Origin": OTHER}))


def test_no_origin_is_allowed_unless_it_is_named(http: httpx.Client, server: Server) -> None:
    assert preflight(http, APP).json()["code"] == "method-not-allowed"
    answer = http.get("/limits", headers={"Origin": APP})
    assert not any(name.startswith("access-control-") for name in answer.headers)
    eventually(lambda: not any(server.counts.flying.values()))


@pytest.mark.parametrize("origin", ["https://app.example/", "app.example", "https://*.example", "ftp://app.example"])
def test_an_origin_that_no_browser_sends_is_refused_at_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=(origin,))
