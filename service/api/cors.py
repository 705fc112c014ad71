"""Answers that pages of other origins may read, where the settings name those origins."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from service.api.errors import problem_response
from service.api.request_id import HEADER
from service.errors import ProblemError

# Headers of answers that browsers hide from pages unless they are named.
EXPOSED_HEADERS = (
    HEADER,
    "X-Omnitok-Model",
    "X-Omnitok-Bundle",
    "X-Omnitok-PSNR",
    "X-Omnitok-Seed",
    "Server-Timing",
    "Age",
    "Cache-Status",
    "Idempotent-Replayed",
    "traceresponse",
    "Retry-After",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Allow",
    "Location",
    "Preference-Applied",
    "WWW-Authenticate",
)


class Cors(CORSMiddleware):
    """Starlette's middleware, whose refusals of a preflight are problem documents.

    It is inside `RequestId`, since its answers carry an id, and outside `RequestMiddleware`, so that pages can read
    the answer to a failure too.

    Args:
        app: what it wraps.
        origins: such as "https://app.example"; "*" allows all.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(app, origins, ["GET", "HEAD", "POST", "DELETE"], ["*"], expose_headers=EXPOSED_HEADERS)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer the question of a browser whether a page may send a request."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        refusal = ProblemError(
            "bad-header",
            f"{bytes(response.body).decode()}. The setting OMNITOK_CORS_ORIGINS names the origins that may call.",
        )
        problem = problem_response(refusal, request_headers[HEADER], close=False)
        problem.headers.update(
            {name: response.headers[name] for name in response.headers if name.startswith("access-")}
        )
        problem.headers["Vary"] = response.headers["Vary"]
        return problem
