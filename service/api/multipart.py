"""Multipart bodies, each expected part once and nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from service.api.body import Body
from service.errors import ProblemError

MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4096  # a file name of 255 bytes comes percent-encoded, and often in two spellings
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Part:
    """One part of a body."""

    name: str
    content_type: str | None
    data: bytes


def read_parts(body: Body, main: str) -> dict[str, Part]:
    """Return the parts of a multipart body by name: `main`, and perhaps `options`.

    Raises:
        ProblemError: `malformed-body`, `missing-part` or `unsupported-encoding`.
    """
    file, options = (
        f"Send the file in a part named `{main}`.",
        "Options go into the query or into a part named `options`.",
    )
    parts = read_form(body, (main, "options"), f"{file} {options}")
    if main not in parts:
        raise ProblemError("missing-part", f"The body must have a part named `{main}`.")
    if not parts[main].data:
        raise ProblemError("malformed-body", f"The part `{main}` is empty: 0 bytes arrived.")
    return parts


def read_form(body: Body, names: Collection[str], remedy: str) -> dict[str, Part]:
    """Return the parts of a multipart body by name, each of which may come once.

    Args:
        body: the whole body.
        names: of the parts that are expected.
        remedy: of another part, a sentence.

    Raises:
        ProblemError: `malformed-body` or `unsupported-encoding`.
    """
    boundary, data = body.content_type.boundary, body.data
    if not boundary:
        raise ProblemError("malformed-body", "The Content-Type of a multipart body must name its boundary.")
    # Each line that begins so ends a part (RFC 2046, section 5.1.1). One search a part is all that hostile ones cost.
    delimiter = b"\r\n--" + boundary
    found = -len(b"\r\n") if data.startswith(delimiter[2:]) else data.find(delimiter)
    if found == -1:
        raise _malformed()
    parts: dict[str, Part] = {}
    while not data.startswith(b"--", start := found + len(delimiter)):
        found = data.find(delimiter, start)
        if found == -1:
            raise ProblemError("malformed-body", "The body ends before its closing boundary. Send the whole of it.")
        headers, content = _headers(data, start, found)
        part = Part(_name(headers), headers.get("content-type"), data[content:found])
        if part.name not in names:
            raise ProblemError("malformed-body", remedy)
        if part.name in parts:
            raise ProblemError("malformed-body", f"The part `{part.name}` occurs twice. Send it once.")
        if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
            raise ProblemError("unsupported-encoding", "Send each part without a transfer encoding.")
        parts[part.name] = part
    return parts


def _headers(data: bytes, start: int, end: int) -> tuple[dict[str, str], int]:
    """Return the headers of a part between two boundaries, names in lower case, and where its content begins."""
    blank = b"\r\n\r\n"
    stop = data.find(blank, start, min(end, start + MAX_PART_HEADERS * MAX_PART_HEADER_BYTES))
    padding, *lines = data[start : max(start, stop)].decode("latin-1").split("\r\n")
    if stop == -1 or padding.strip(" \t") or len(lines) > MAX_PART_HEADERS:
        raise _malformed()
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or len(line) > MAX_PART_HEADER_BYTES or not HEADER_NAME.fullmatch(name):
            raise _malformed()
        headers[name.lower()] = value.strip(" \t")
    return headers, stop + len(blank)


def _name(headers: dict[str, str]) -> str:
    _, parameters = parse_options_header(headers.get("content-disposition"))
    return parameters.get(b"name", b"").decode("latin-1")


def _malformed() -> ProblemError:
    return ProblemError("malformed-body", "The body must be multipart/form-data with the named boundary.")
