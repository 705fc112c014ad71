"""Errors as RFC 9457 problem documents: one exception, one table of what can go wrong at the public edge."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from media.errors import MediaError

# code -> (HTTP status, title). A caller branches on the code; the status follows from it.
PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed-body": (400, "The body has a wrong form"),
    "bad-header": (400, "A header cannot be understood"),
    "missing-part": (400, "A required part of the request is missing"),
    "unauthorized": (401, "The request needs valid credentials"),
    "forbidden": (403, "These credentials do not allow this request"),
    "unknown-model": (404, "No such model"),
    "unknown-job": (404, "No such job"),
    "not-found": (404, "No such resource"),
    "method-not-allowed": (405, "This resource does not support that method"),
    "not-acceptable": (406, "No representation fits the Accept header"),
    "slow-body": (408, "The body did not arrive in time"),
    "job-unfinished": (409, "The job is not finished"),
    "job-without-content": (409, "The job made no content"),
    "idempotency-in-progress": (409, "The request with this idempotency key is being worked on"),
    "body-too-large": (413, "The body is over its limit"),
    "unsupported-media-type": (415, "This content type is not supported"),
    "unsupported-container": (415, "This container format is not supported"),
    "unsupported-codec": (415, "This codec is not supported"),
    "unsupported-encoding": (415, "This content encoding is not supported"),
    "invalid-options": (422, "An option is invalid"),
    "corrupt-media": (422, "The media cannot be decoded"),
    "no-video-stream": (422, "The file holds no pictures"),
    "too-many-pixels": (422, "The picture is over its pixel limit"),
    "too-many-frames": (422, "The clip is over its frame limit"),
    "too-many-tokens": (422, "The request is over its token limit"),
    "too-long": (422, "The clip is over its duration limit"),
    "decode-budget": (422, "Decoding the media takes too much"),
    "invalid-tensor": (422, "A tensor does not fit its description"),
    "token-out-of-range": (422, "A token is outside the codebook"),
    "bad-grid": (422, "The token grid does not fit the model"),
    "model-mismatch": (422, "The tokens were made by another bundle"),
    "idempotency-conflict": (422, "This idempotency key belongs to another request"),
    "unknown-class": (422, "No such class"),
    "tokenizer-not-served": (422, "The tokenizer of this generator is not served"),
    "use-async": (422, "The work takes longer than one request may"),
    "job-too-long": (422, "The work takes longer than a job may"),
    "rate-limited": (429, "Too many requests came from this caller"),
    "headers-too-large": (431, "The headers are over their limit"),
    "internal": (500, "Something went wrong on our side"),
    "overloaded": (503, "The service is at its capacity"),
    "draining": (503, "The service is shutting down"),
    "not-ready": (503, "The service is not ready"),
    "gpu-memory": (503, "The accelerator is out of memory"),
    "deadline-exceeded": (504, "The deadline passed"),
}


def as_text(detail: str, errors: Collection[Mapping[str, str]]) -> str:
    """Return a refusal for people: its detail, and the options that are wrong; once where these say the same."""
    entries = [f"{error.get('pointer', '')}: {error.get('detail', '')}" for error in errors]
    details = [error.get("detail") or "" for error in errors]
    is_said = detail in (*details, " ".join(details))
    return " ".join(entries if is_said else [detail, *entries])


@dataclass
class ProblemError(Exception):
    """A refusal that the caller should see.

    Args:
        code: a key of `PROBLEMS`.
        detail: full sentences that name the value and the remedy. Of the caller's input they repeat numbers, shapes,
            dtypes and hashes alone.
        limit, actual: the bound that was broken and the value that broke it, where both are numbers.
        errors: up to 20 `{"pointer": ..., "detail": ...}` entries for invalid options.
        retry_after_seconds: when trying again makes sense.
    """

    code: str
    detail: str
    limit: float | None = None
    actual: float | None = None
    errors: list[dict[str, str]] = field(default_factory=list)
    retry_after_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.code not in PROBLEMS:
            raise ValueError(f"The problem code {self.code!r} is not in PROBLEMS.")
        super().__init__(self.code, self.detail)

    @classmethod
    def of(cls, error: MediaError) -> Self:
        """Return the problem of a refusal by `media`."""
        return cls(error.code, error.detail, error.limit, error.actual, error.errors)

    @classmethod
    def of_option(cls, name: str, detail: str) -> Self:
        """Return the refusal of one option, which its pointer names."""
        return cls("invalid-options", detail, errors=[{"pointer": f"/{name}", "detail": detail}])

    def __reduce__(self) -> tuple[Any, ...]:  # crosses process borders whole
        fields = (self.code, self.detail, self.limit, self.actual, self.errors, self.retry_after_seconds)
        return (type(self), fields)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def status(self) -> int:
        """Return the HTTP status that goes with the code."""
        return PROBLEMS[self.code][0]

    def document(self, request_id: str) -> dict[str, Any]:
        """Return the RFC 9457 body.

        Args:
            request_id: the id that the response also carries as `X-Request-ID`.
        """
        status, title = PROBLEMS[self.code]
        body: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": title,
            "status": status,
            "detail": self.detail,
            "instance": f"urn:request:{request_id}",
            "code": self.code,
            "request_id": request_id,
        }
        optional = {
            "limit": self.limit,
            "actual": self.actual,
            "errors": self.errors[:20] or None,
            "retry_after_seconds": self.retry_after_seconds,
        }
        return body | {key: value for key, value in optional.items() if value is not None}
