"""Problem documents: the status and the headers of each code."""

from __future__ import annotations

import json

import httpx
import pytest

from service.api.errors import problem_response
from service.errors import PROBLEMS, ProblemError

STATUSES = {
    "malformed-body": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "unknown-model": 404,
    "method-not-allowed": 405,
    "not-acceptable": 406,
    "slow-body": 408,
    "body-too-large": 413,
    "unsupported-media-type": 415,
    "invalid-options": 422,
    "rate-limited": 429,
    "internal": 500,
    "overloaded": 503,
    "deadline-exceeded": 504,
}


@pytest.mark.parametrize(("code", "status"), STATUSES.items())
def test_a_code_decides_the_status(code: str, status: int) -> None:
    response = problem_response(ProblemError(code, "A sentence."), "id-1", close=False)
    document = json.loads(response.body)
    assert (response.status_code, response.media_type) == (status, "application/problem+json")
    assert (document["code"], document["status"], document["request_id"]) == (code, status, "id-1")


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_problem_is_an_error(code: str) -> None:
    status, title = PROBLEMS[code]
    assert 400 <= status < 600
    assert title


@pytest.mark.parametrize("code", PROBLEMS)
def test_only_missing_credentials_are_challenged(code: str) -> None:
    response = problem_response(ProblemError(code, "A sentence."), "id-1", close=False)
    assert ("www-authenticate" in response.headers) == (response.status_code == 401)


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (3.0, "3"), (3.1, "4")])
def test_a_refusal_for_now_says_when_to_come_back(seconds: float, header: str) -> None:
    problem = ProblemError("rate-limited", "A sentence.", retry_after_seconds=seconds)
    assert problem_response(problem, "id-1", close=False).headers["retry-after"] == header


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/jobs/a", "DELETE, GET, HEAD"),
        ("OPTIONS", "/v1/videos/a", "DELETE, GET, HEAD"),
        ("PATCH", "/v1/jobs", "GET, HEAD"),
        ("GET", "/encode", "POST"),
        ("POST", "/docs", "GET, HEAD"),
    ],
)
def test_a_refused_method_names_those_of_its_path(method: str, path: str, allowed: str, http: httpx.Client) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
