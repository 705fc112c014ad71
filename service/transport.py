"""Requests that are tried again when that is safe and has a chance; the client's lower half."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0  # a server that asks for more is not waited for
CONNECT_SECONDS = 5.0
READ_BYTES = 2**18
PROBLEM_TYPE = "application/problem+json"

# Statuses that proxies and the cluster's own limits make, without a problem document; the service never answered.
TRANSIENT_WITHOUT_PROBLEM = frozenset({408, 500, 502, 503, 504})
# The connection broke. A timeout while reading is absent: the same work would take as long again.
TRANSIENT_FAILURES = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)


class ServiceError(Exception):
    """The service refused, failed, or could not be reached.

    Args:
        detail: one sentence.
        status: the HTTP status, or None when there was no answer.
        problem: the RFC 9457 document of the answer, or None.
    """

    def __init__(self, detail: str, status: int | None = None, problem: dict[str, Any] | None = None) -> None:
        super().__init__(detail, status, problem)
        self.detail = detail
        self.status = status
        self.problem = problem

    @property
    def code(self) -> str | None:
        """The problem's slug, such as "too-many-frames"; None when the answer was not a problem document."""
        return None if self.problem is None else self.problem.get("code")

    def __str__(self) -> str:
        if self.problem is None:
            return self.detail
        errors = "".join(
            f"; {error.get('pointer', '')}: {error.get('detail', '')}" for error in self.problem.get("errors", [])
        )
        return f"{self.detail}{errors} ({self.status} {self.code}, request {self.problem.get('request_id', 'unknown')})"


@dataclass(frozen=True)
class Call:
    """One request, which can be sent any number of times.

    Args:
        method, path: such as "POST", "/encode".
        params: query parameters; entries that are None are left out.
        headers: request headers.
        body: the bytes, or a file that is read anew and in pieces for every attempt.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Path | None = None


class Transport:
    """Sends calls that are safe to repeat, and repeats them.

    Every call of the service is a pure function of its input, so all of them may be repeated: after a broken
    connection, after an answer that a proxy made, and after a 503 that says when to come back. Waits double from a
    quarter of a second, with jitter.

    Args:
        base_url: where the service listens, such as "http://127.0.0.1:8000".
        timeout: seconds without a byte of the answer before a call is given up.
        retries: attempts after the first one.
        sleep: how to wait, seconds.
    """

    def __init__(
        self, base_url: str, timeout: float, retries: int, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if retries < 0:
            raise ValueError(f"retries must not be negative, got {retries}")
        self._http = httpx.Client(base_url=base_url, timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS))
        self._retries = retries
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, call: Call, retries: int | None = None) -> httpx.Response:
        """Send a call until it succeeds, is refused for good, or the attempts are used up.

        Args:
            call: what to send.
            retries: attempts after the first one, where this call needs another number.

        Raises:
            ServiceError: with the problem document, where the service gave one.
        """
        last = self._retries if retries is None else retries
        for attempt in range(last + 1):
            jitter = min(FIRST_WAIT_SECONDS * 2**attempt, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)
            try:
                response = self._attempt(call)
            except TRANSIENT_FAILURES as error:
                failure = ServiceError(f"{self._http.base_url} cannot be reached: {_words(error)}")
                wait: float | None = jitter
            except httpx.HTTPError as error:
                raise ServiceError(f"the call to {self._http.base_url} failed: {_words(error)}") from error
            else:
                if response.is_success:
                    return response
                failure = _failure(response)
                wait = _wait(response, failure, jitter)
            if wait is None or attempt == last:
                raise failure
            self._sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, call: Call) -> httpx.Response:
        headers, content = dict(call.headers), call.body
        if isinstance(content, Path):
            headers["Content-Length"] = str(content.stat().st_size)
        return self._http.request(
            call.method,
            call.path,
            params={key: value for key, value in call.params.items() if value is not None},
            headers=headers,
            content=_pieces(content) if isinstance(content, Path) else content,
        )


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            yield piece


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _failure(response: httpx.Response) -> ServiceError:
    status = response.status_code
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() == PROBLEM_TYPE:
        try:
            problem = response.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            problem = None
        if isinstance(problem, dict):
            return ServiceError(
                str(problem.get("detail") or problem.get("title") or f"status {status}"), status, problem
            )
    return ServiceError(f"{response.url.host} answered {status} {response.reason_phrase}", status)


def _wait(response: httpx.Response, failure: ServiceError, jitter: float) -> float | None:
    """Seconds before the next attempt; None when another attempt would get the same answer."""
    asked = response.headers.get("retry-after", "")
    if failure.status == 503 and asked.isdecimal():
        return int(asked) + jitter if int(asked) <= LONGEST_WAIT_SECONDS else None
    if failure.problem is None and failure.status in TRANSIENT_WITHOUT_PROBLEM:
        return jitter
    return None
