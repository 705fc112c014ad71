"""Ray's refusals in plain text reach callers as problem documents; answers of the application pass as they are."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.api.ray_middleware import before_ray
from service.api.request_id import HEADER


async def answer(request: Request) -> Response:
    """Answer with the status and the content type that the query names."""
    kind = request.query_params["kind"]
    return Response("as it was", status_code=int(request.query_params["status"]), media_type=kind)


async def get(path: str) -> httpx.Response:
    app = Starlette(
        routes=[Route("/{rest:path}", answer)],
        middleware=before_ray(),
        exception_handlers={404: lambda request, error: PlainTextResponse("no route", 404)},
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        return await client.get(path, headers={HEADER: "mine"})


@pytest.mark.parametrize(
    ("ray", "status", "code"),
    [
        (404, 503, "not-ready"),
        (408, 504, "deadline-exceeded"),
        (500, 500, "internal"),
        (503, 503, "overloaded"),
    ],
)
async def test_a_refusal_in_plain_text_says_when_to_come_back(ray: int, status: int, code: str) -> None:
    got = await get(f"/encode?status={ray}&kind=text/plain")
    assert got.status_code == status
    assert got.headers["content-type"] == "application/problem+json"
    assert got.headers["retry-after"] == "1"
    assert got.headers[HEADER] == "mine"
    document = got.json()
    assert (document["code"], document["status"], document["request_id"]) == (code, status, "mine")


@pytest.mark.parametrize(
    "path",
    [
        "/encode?status=404&kind=application/problem%2Bjson",
        "/version?status=200&kind=text/plain",
        "/encode?status=422&kind=text/plain",
        "/-/healthz?status=503&kind=text/plain",
    ],
)
async def test_other_answers_pass(path: str) -> None:
    assert (await get(path)).text == "as it was"
