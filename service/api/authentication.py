"""Keys of callers on the way in: who may call, and how much a minute. Every path needs a key unless it is public."""

from __future__ import annotations

import math

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import problem_response
from service.api.request_id import HEADER
from service.errors import ProblemError
from service.keys import Budget, Key, KeyRing

# Probes, the page, the documentation, and the explanations of problems that a refusal links to.
PUBLIC_PATHS = frozenset({"/", "/health/live", "/health/ready", "/docs", "/openapi.json", "/version"})
PUBLIC_FOLDERS = ("/docs/assets/", "/problems/", "/static/")
# What each route needs. To read another path takes any key, and all else the scope admin.
SCOPES = {
    "/encode": ("encode",),
    "/decode": ("decode",),
    "/reconstruct": ("encode", "decode"),
    "/vae/encode": ("encode",),
    "/vae/decode": ("decode",),
    "/generate": ("generate",),
    "/images/generations": ("generate",),
    "/videos": ("generate",),
}
WORK = frozenset(SCOPES)
JOB_FOLDERS = ("/jobs/", "/videos/")
READING = frozenset({"GET", "HEAD"})


def is_public(path: str) -> bool:
    """Return whether a path, without its version, is open to everyone."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


class Authentication:
    """Middleware that lets requests with a key pass; `request.state.key` is the key, `.budget` its budget.

    Args:
        app: what it wraps.
        keys: of the callers.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        path = scope.get("path", "").removeprefix("/v1")
        if scope["type"] == "lifespan" or is_public(path):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"The service speaks HTTP alone, not {scope['type']}.")
        state = scope["state"]
        budget: Budget | None = None
        answer = send
        try:
            key = self._key(Headers(scope=scope).getlist("authorization"))
            state["caller"], state["key"] = key.name, key
            budget = state["budget"] = self._keys.budget(key)
            if budget is not None:
                answer = _with_budget(send, budget)
            self._check(key, scope["method"], path, budget)
        except ProblemError as error:
            state["problem"] = error.code
            response = problem_response(error, Headers(scope=scope)[HEADER], close=scope["method"] == "POST")
            await response(scope, receive, answer)
            return
        await self._app(scope, receive, answer)

    def _key(self, given: list[str]) -> Key:
        if not given:
            raise ProblemError("unauthorized", "Send a key: Authorization: Bearer omnitok_...")
        scheme, _, secret = given[0].partition(" ")
        key = self._keys.find(secret.strip()) if len(given) == 1 and scheme.lower() == "bearer" else None
        if key is None:
            raise ProblemError("unauthorized", "The header Authorization holds no key that is valid here.")
        return key

    def _check(self, key: Key, method: str, path: str, budget: Budget | None) -> None:
        scopes = SCOPES.get(path, () if method in READING else ("admin",))
        if path.startswith(JOB_FOLDERS):
            scopes = ("generate",)
        if not key.allows(scopes):
            raise ProblemError("forbidden", f"This needs a key with the scopes {', '.join(scopes)}.")
        if path in WORK and method not in READING and budget is not None and budget.left <= 0:
            raise ProblemError(
                "rate-limited",
                "This key has used its latent positions of the minute. Wait, then ask again.",
                limit=budget.per_minute,
                retry_after_seconds=max(1.0, budget.seconds_until(1.0)),
            )


def _with_budget(send: Send, budget: Budget) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["RateLimit-Limit"] = str(math.floor(budget.per_minute))
            headers["RateLimit-Remaining"] = str(max(0, math.floor(budget.left)))
            headers["RateLimit-Reset"] = str(math.ceil(budget.seconds_until(budget.per_minute)))
        await send(message)

    return answer
