"""Multipart bodies, each expected part once and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.api.body import Body
from service.errors import ProblemError

MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4096  # a file name of 255 bytes comes percent-encoded, and often in two spellings


@dataclass
class Part:
    """One part of a body."""

    name: str
    content_type: str | None
    data: bytearray


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
    if not body.content_type.boundary:
        raise ProblemError("malformed-body", "The Content-Type of a multipart body must name its boundary.")
    reader = _PartReader(names, remedy)
    try:
        parser = MultipartParser(
            body.content_type.boundary,
            reader.callbacks(),
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )
        parser.write(body.data)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise ProblemError("malformed-body", "The body must be multipart/form-data with the named boundary.") from error
    if not reader.ended:
        raise ProblemError("malformed-body", "The body ends before its closing boundary. Send the whole of it.")
    return reader.parts


class _PartReader:
    """A reader that collects the parts that are expected, each once, and refuses the rest."""

    def __init__(self, names: Collection[str], remedy: str) -> None:
        self._names, self._remedy = names, remedy
        self.parts: dict[str, Part] = {}
        self.ended = False
        self._headers: dict[str, str] = {}
        self._field = self._value = b""
        self._part: Part | None = None

    def callbacks(self) -> Any:
        """Return the hooks of the streaming parser."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, parameters = parse_options_header(self._headers.get("content-disposition"))
        name = parameters.get(b"name", b"").decode("latin-1")
        if name not in self._names:
            raise ProblemError("malformed-body", self._remedy)
        if name in self.parts:
            raise ProblemError("malformed-body", f"The part `{name}` occurs twice. Send it once.")
        if self._headers.get("content-transfer-encoding", "binary").strip().lower() not in ("binary", "8bit", "7bit"):
            raise ProblemError("unsupported-encoding", "Send each part without a transfer encoding.")
        self._part = Part(name, self._headers.get("content-type"), bytearray())
        self.parts[name] = self._part

    def _data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        self._part.data += data[start:end]

    def _end(self) -> None:
        self.ended = True
