"""Multipart bodies as browsers and programs write them, and as nobody should."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from service.api.body import Body
from service.api.content_type import MULTIPART, ContentType
from service.api.multipart import read_form, read_parts
from service.api.replay import _fingerprint
from service.errors import ProblemError

HEAD = b'--a\r\nContent-Disposition: form-data; name="media"\r\n\r\n'
PIECES = 10_000
HOSTILE = {
    "lines like the boundary": HEAD + b"\r\n--ax" * PIECES + b"\r\n--a--\r\n",
    "a boundary with padding": HEAD + b"x\r\n--a" + b" " * PIECES,
    "boundaries without parts": b"--a" * PIECES,
    "parts without headers": b"--a\r\n\r\n\r\n" * PIECES,
    "a header without an end": b"--a\r\n" + b"A: b\r\n" * PIECES,
}


def form(data: bytes) -> Body:
    return Body(ContentType(MULTIPART, b"a"), data)


def lines_run(work: Callable[[], Any]) -> int:
    """Return the lines of Python that some work takes."""
    lines, before = 0, sys.gettrace()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_costs_no_python_for_each_of_its_bytes(name: str) -> None:
    def parse() -> None:
        with pytest.raises(ProblemError):
            read_parts(form(HOSTILE[name]), "media")

    assert lines_run(parse) < PIECES // 2


@pytest.mark.parametrize("name", HOSTILE)
def test_its_idempotency_key_costs_none_either(name: str) -> None:
    scope = {"type": "http", "path": "/encode", "query_string": b"", "headers": [(b"host", b"x")]}
    assert lines_run(lambda: asyncio.run(_fingerprint(Request(scope), form(HOSTILE[name])))) < PIECES // 2


@pytest.mark.parametrize(
    "data",
    [
        b"--a\r\n%s\r\n\r\nx\r\n--a--",
        b"\r\n--a\r\n%s\r\n\r\nx\r\n--a--\r\nan epilogue",
        b"a preamble\r\n--a \t\r\n%s\r\n\r\nx\r\n--a--",
        b"--a\r\nX-Other:\r\n%s\r\n\r\nx\r\n--a--\r\n--a\r\n",
    ],
)
def test_what_surrounds_the_parts_does_not_matter(data: bytes) -> None:
    part = read_form(form(data % b'Content-Disposition: form-data; name="b"'), ("b",), "")["b"]
    assert (part.name, part.content_type, part.data) == ("b", None, b"x")


@pytest.mark.parametrize("data", [b"x", b"\r\n--a\r\nx\r\n", b"--\r\n\r\n--a--", b"--a--\r\n--b--"])
def test_the_content_is_what_came(data: bytes) -> None:
    content = data.replace(b"--a", b"--c")
    part = read_form(form(HEAD + content + b"\r\n--a--\r\n"), ("media",), "")["media"]
    assert part.data == content


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Disposition",
        b" Content-Disposition: form-data",
        b"Content\xff: x",
        b": x",
        b"A: " + b"x" * 5000,
        b"\r\n".join([b"A: b"] * 9),
    ],
)
def test_headers_of_parts_that_are_refused(head: bytes) -> None:
    with pytest.raises(ProblemError) as caught:
        read_form(form(b"--a\r\n" + head + b"\r\n\r\nx\r\n--a--"), ("media",), "")
    assert caught.value.code == "malformed-body"
