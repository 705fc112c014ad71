"""The layers around Ray's HTTP servers."""

from __future__ import annotations

from starlette.middleware import Middleware

from service.api.large_answers import LargeAnswers
from service.api.ray_headers import RayHeaders
from service.api.ray_refusals import RayRefusals
from service.api.request_id import RequestId
from service.api.shedding import Shedding


def before_ray() -> list[Middleware]:
    """Return the layers, the outermost first: refusals cost much in Ray and are text, slow readers unbounded."""
    return [
        Middleware(LargeAnswers),
        Middleware(Shedding),
        Middleware(RequestId),
        Middleware(RayHeaders),
        Middleware(RayRefusals),
    ]
