"""Answers that are given again: to a request with the same idempotency key, and to a pure call that was made before."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.body import Body
from service.api.caller import owner_of
from service.api.event_stream import EventStream
from service.errors import ProblemError
from service.failures import LoopFailures
from service.stored_answer import Begun, BoundedStore, KeyedAnswers, StoredAnswer
from service.types import Backend

IDEMPOTENCY_HEADER = "Idempotency-Key"  # draft-ietf-httpapi-idempotency-key-header-07
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
REPLAYED = "Idempotent-Replayed"
CACHE_STATUS = "Cache-Status"  # RFC 9211
CACHE_NAME = "omnitok"
HASH_INLINE_BYTES = 2**18  # hashed at once: a thread costs as much
MAX_PIECES = 64  # of a multipart body that are hashed each by itself; no form has as many parts
# A request whose process dies holds its key for so long. Others renew theirs.
LEASE_SECONDS, RENEW_SECONDS = 10.0, 3.0

Work = Callable[[], Awaitable[Response]]


@dataclass(eq=False)
class _Shared:
    task: asyncio.Task[Response]
    waiters: int = 0


class AnswerCache:
    """The answers of pure calls, and those that are being computed: who asks for the same meanwhile waits for them.

    Args:
        max_bytes: of all answers together.
        seconds: that an answer is kept.

    Attributes:
        results: calls by "hit", "collapsed" and "miss".
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._store: BoundedStore[bytes, StoredAnswer] = BoundedStore(max_bytes, seconds)
        self._running: dict[bytes, _Shared] = {}
        self.results: Counter[str] = Counter()

    async def answer(self, key: bytes, owner: str, work: Work) -> tuple[Response, str]:
        """Return the answer of a call, and "hit", "collapsed" or "miss".

        The work goes on while anyone waits for it. Only its success is shared: after a failure each computes anew, for
        it may have been another one's deadline.

        Args:
            key: all that the answer depends on.
            owner: of the answer.
            work: computes it.
        """
        if (found := self._store.get(key)) is not None:
            stored, age = found
            self.results["hit"] += 1
            return response_of(stored, {"Age": str(int(age)), CACHE_STATUS: f"{CACHE_NAME}; hit"}), "hit"
        shared = self._running.get(key)
        if shared is None:
            self.results["miss"] += 1
            shared = self._running[key] = _Shared(asyncio.ensure_future(work()))
            shared.task.add_done_callback(lambda task: self._done(key, owner, task))
            response = await self._wait(key, shared)
            kept = self._store.get(key) is not None
            response.headers[CACHE_STATUS] = f"{CACHE_NAME}; fwd=uri-miss{'; stored' if kept else ''}"
            return response, "miss"
        self.results["collapsed"] += 1
        with suppress(Exception):
            response = await self._wait(key, shared)
            if _plain(response):
                header = f"{CACHE_NAME}; fwd=uri-miss; collapsed"
                return response_of(stored_of(response), {CACHE_STATUS: header}), "collapsed"
        return await work(), "miss"

    async def _wait(self, key: bytes, shared: _Shared) -> Response:
        shared.waiters += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiters -= 1
            if not shared.waiters and not shared.task.done():  # the last one has left
                self._running.pop(key, None)
                shared.task.cancel()

    def _done(self, key: bytes, owner: str, task: asyncio.Task[Response]) -> None:
        if (shared := self._running.get(key)) is not None and shared.task is task:
            del self._running[key]
        # Who asked first may have left, and all others too.
        if not task.cancelled() and task.exception() is None and _plain(response := task.result()):
            self._store.put(key, stored := stored_of(response), stored.nbytes, owner)


class Replays:
    """The stored answers that routes ask for before they compute one.

    Args:
        backend: names the bundles that pure calls depend on.
        cache: of pure calls, or None.
        keyed: answers by idempotency key; None ignores the header.
    """

    def __init__(self, backend: Backend, cache: AnswerCache | None, keyed: KeyedAnswers | None) -> None:
        self._backend, self.cache, self._keyed = backend, cache, keyed
        self.results: Counter[str] = Counter() if cache is None else cache.results
        self._later: set[asyncio.Task[None]] = set()  # calls of the store that nobody waits for

    async def answer(self, request: Request, body: Body, pure: bool, keyed: bool, work: Work) -> Response:
        """Return the answer to a request, by the work or without it.

        Args:
            request: whose body has been read.
            body: of it.
            pure: whether equal requests have equal answers.
            keyed: whether an idempotency key is remembered here.
            work: computes the answer.

        Raises:
            ProblemError: `bad-header`, `idempotency-conflict`, `idempotency-in-progress`, and those of the work.
        """
        key = idempotency_key(request) if keyed and self._keyed is not None else None
        cache = self.cache if pure and _wants_cache(request) else None
        if key is None and cache is None:
            return await work()
        # A caller learns nothing of others: not their answers, and not from its own speed that one has asked before.
        owner = owner_of(request)
        digest = await _fingerprint(request, body)
        run = work if cache is None else lambda: self._cached(cache, request, owner, digest, work)
        if key is None:
            return await run()
        response = await self._once(f"{owner} {key}", digest, run)
        request.state.notes["replayed"] = True if REPLAYED in response.headers else None
        return response

    async def _cached(self, cache: AnswerCache, request: Request, owner: str, digest: bytes, work: Work) -> Response:
        bundles = (card.hash for card in await self._backend.models())  # the first one is the default
        everything = _digest([owner.encode(), digest, *(name.encode() for name in bundles)])
        response, result = await cache.answer(everything, owner, work)
        request.state.notes["cache"] = result
        return response

    async def _once(self, key: str, digest: bytes, work: Work) -> Response:
        keyed = self._keyed
        assert keyed is not None
        beginning = asyncio.ensure_future(keyed.begin(key, digest, LEASE_SECONDS))
        try:
            begun = await asyncio.shield(beginning)
        except asyncio.CancelledError:  # its caller left, and may come again before the lease ends
            self._spawn(self._give_up(key, beginning))
            raise
        if begun == "conflict":
            detail = f"Another request came with this {IDEMPOTENCY_HEADER}. Give each request one of its own."
            raise ProblemError("idempotency-conflict", detail)
        if begun == "in-progress":
            detail = f"The request with this {IDEMPOTENCY_HEADER} has not been answered yet. Ask again in a second."
            raise ProblemError("idempotency-in-progress", detail, retry_after_seconds=1)
        if isinstance(begun, StoredAnswer):
            return response_of(begun, {REPLAYED: "true"})
        assert isinstance(begun, int)
        kept: StoredAnswer | None = None
        response: Response | None = None
        renewing = self._spawn(self._renew(key, begun))
        try:
            response = await work()
            if _plain(response) and response.status_code < 300:  # a refusal may not be one the next time
                kept = stored_of(response)
            return response
        finally:
            renewing.cancel()
            finishing = self._spawn(keyed.finish(key, begun, kept))
            if not isinstance(response, EventStream):  # whose work would go on if its caller left meanwhile
                await asyncio.shield(finishing)

    async def _renew(self, key: str, ticket: int) -> None:
        failures = LoopFailures("the renewal of an idempotency key's lease")
        while self._keyed is not None:
            await asyncio.sleep(RENEW_SECONDS)
            with failures.logged():
                await self._keyed.renew(key, ticket, LEASE_SECONDS)

    async def _give_up(self, key: str, beginning: asyncio.Future[Begun]) -> None:
        with suppress(ProblemError):  # the store has nothing to free then
            begun = await beginning
            if isinstance(begun, int) and self._keyed is not None:
                await self._keyed.finish(key, begun, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return task


def idempotency_key(request: Request) -> str | None:
    """Return the caller's key, or None.

    Raises:
        ProblemError: `bad-header`.
    """
    given = request.headers.getlist(IDEMPOTENCY_HEADER)
    if not given:
        return None
    if len(given) > 1 or not IDEMPOTENCY_KEY.fullmatch(given[0]):
        detail = f"{IDEMPOTENCY_HEADER} must be 1 to 255 visible ASCII characters, such as a UUID, and come once."
        raise ProblemError("bad-header", detail)
    return given[0]


def prefers_async(request: Request) -> bool:
    """Return whether the caller prefers a job to an answer (RFC 7240)."""
    given = ",".join(request.headers.getlist("prefer")).split(",")
    return any(part.partition(";")[0].strip().lower() == "respond-async" for part in given)


def stored_of(response: Response) -> StoredAnswer:
    """Return a copy of an answer to keep."""
    headers = tuple((name, value) for name, value in response.raw_headers if name != CACHE_STATUS.lower().encode())
    return StoredAnswer(response.status_code, headers, bytes(response.body))


def response_of(stored: StoredAnswer, headers: dict[str, str]) -> Response:
    """Return a kept answer with more headers."""
    response = Response(stored.body, stored.status)
    response.raw_headers = list(stored.headers)
    response.headers.update(headers)
    return response


def _plain(response: Response) -> bool:
    """Return whether an answer is there as a whole."""
    return type(response) is Response


def _wants_cache(request: Request) -> bool:
    return "no-" not in request.headers.get("cache-control", "")  # no-cache or no-store


async def _fingerprint(request: Request, body: Body) -> bytes:
    """Return a digest of all that the answer to a request depends on, except its caller and the bundles."""
    headers = [request.headers.get(name, "") for name in ("accept", "prefer")]
    path = request.url.path.removeprefix("/v1")
    kind, boundary = body.content_type.media_type, body.content_type.boundary
    if boundary:  # most programs draw a new one for each attempt
        content = body.data.split(b"--" + boundary, MAX_PIECES)
    else:
        kind, content = request.headers.get("content-type", ""), [body.data]
    parts = [path.encode(), request.scope["query_string"], *(value.encode() for value in (*headers, kind)), *content]
    if len(body.data) <= HASH_INLINE_BYTES:
        return _digest(parts)
    return await asyncio.to_thread(_digest, parts)


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
