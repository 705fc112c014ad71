"""The rule by which a call is tried again, and the error in which it ends; nothing here sends or waits."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import Any

import httpx

from service.errors import as_text
from service.formats.media_types import PROBLEM_TYPE

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0  # a server that asks for more is not waited for

# Statuses that proxies and the cluster's own limits make, without a problem document; the service never answered.
TRANSIENT_WITHOUT_PROBLEM = frozenset({408, 429, 500, 502, 503, 504})
# Statuses whose answer may say when to come back: this caller, or all of them, asked too much.
DEFERRED = frozenset({429, 503})
IN_PROGRESS = (
    "idempotency-in-progress"  # by an attempt before, perhaps one whose process died and holds the key a while
)
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
        """Return the problem's slug, such as "too-many-frames"; None when the answer was not a problem document."""
        return None if self.problem is None else self.problem.get("code")

    def __str__(self) -> str:
        if self.problem is None:
            return self.detail
        text = as_text(self.detail, self.problem.get("errors", []))
        return f"{text} ({self.status} {self.code}, request {self.problem.get('request_id', 'unknown')})"


class BrokenStreamError(ServiceError):
    """An answer that broke off after its status."""


@dataclass(frozen=True)
class RetryRule:
    """The decision after each failed attempt: how long to wait before the next, or the error that ends the call.

    Every call of the service is a pure function of its input, or names what it submits, so all of them may be repeated:
    after a broken connection, after an answer that a proxy made, and after a refusal that says when to come back: 429,
    503, and 409 where an attempt before is still in work. Waits double from a quarter of a second, with jitter.

    Args:
        retries: attempts after the first one.
    """

    retries: int

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"The number retries={self.retries} must be 0 or more.")

    def wait(self, attempt: int, outcome: httpx.Response | httpx.HTTPError) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            attempt: number of the one that failed, from 0.
            outcome: its answer, which was not a success, or its failure.

        Raises:
            ServiceError: the attempts are used up, or another one would end likewise.
        """
        jitter = _jitter(attempt)
        if isinstance(outcome, httpx.Response):
            failure = _refusal(outcome)
            wait = _wait(outcome, failure, jitter)
        else:
            passing = isinstance(outcome, TRANSIENT_FAILURES)
            failure, wait = _failure(outcome, passing), jitter if passing else None
        if wait is None or attempt >= self.retries:
            raise failure from (outcome if isinstance(outcome, Exception) else None)
        return wait

    def wait_after(self, attempt: int, problem: dict[str, Any], passing: bool) -> float:
        """Return the seconds to wait after a stream that ended with a problem.

        Args:
            attempt: number of the one that failed, from 0.
            problem: the document.
            passing: whether another attempt may not have it.

        Raises:
            ServiceError: with the document.
        """
        if not passing or attempt >= self.retries:
            raise ServiceError(str(problem.get("detail")), problem.get("status"), problem)
        return _jitter(attempt)

    def again(self, attempt: int, error: BrokenStreamError) -> float:
        """Return the seconds to wait before an answer that broke off is asked for from its start.

        Args:
            attempt: number of the one that broke off, from 0.
            error: raised once the attempts are used up.
        """
        if attempt >= self.retries:
            raise error
        return _jitter(attempt)


def stream_failure(error: httpx.HTTPError) -> ServiceError:
    """Return the error of a stream that failed after its status."""
    passing = isinstance(error, TRANSIENT_FAILURES)
    failure = _failure(error, passing)
    return BrokenStreamError(failure.detail) if passing else failure


def _jitter(attempt: int) -> float:
    return min(FIRST_WAIT_SECONDS * 2**attempt, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)


def _failure(error: httpx.HTTPError, passing: bool) -> ServiceError:
    url = error.request.url
    server = f"{url.scheme}://{url.netloc.decode()}"
    cause = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    if passing:
        return ServiceError(f"{server} cannot be reached: {cause}. Check that the service runs.")
    return ServiceError(f"The call to {server} failed: {cause}")


def _refusal(response: httpx.Response) -> ServiceError:
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
    return ServiceError(f"{response.url.host} answered {status} {response.reason_phrase}.", status)


def _wait(response: httpx.Response, failure: ServiceError, jitter: float) -> float | None:
    """Return the seconds before the next attempt; None when another attempt would get the same answer."""
    asked = response.headers.get("retry-after", "")
    if (failure.status in DEFERRED or failure.code == IN_PROGRESS) and asked.isdecimal():
        return int(asked) + jitter if int(asked) <= LONGEST_WAIT_SECONDS else None
    if failure.problem is None and failure.status in TRANSIENT_WITHOUT_PROBLEM:
        return jitter
    return None
