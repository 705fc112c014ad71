"""The header `Content-Type`, of a request or of a part of one."""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from media.identify import FAMILIES
from service.api.negotiation import MSGPACK_ALIASES
from service.errors import ProblemError
from service.formats.media_types import OCTET_STREAM

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
MAX_CONTENT_TYPE = 512
ALIASES = MSGPACK_ALIASES | FAMILIES


@dataclass(frozen=True)
class ContentType:
    """A media type in lower case, aliases resolved, and the boundary of a multipart body."""

    media_type: str
    boundary: bytes | None = None


def parse_content_type(header: str | None, supported: tuple[str, ...]) -> ContentType:
    """Parse a `Content-Type` header; none at all means bytes that are sniffed.

    Args:
        header: its value, of a request or of a part of one.
        supported: the media types that are understood here.

    Raises:
        ProblemError: `unsupported-media-type`, listing `supported`.
    """
    if header is None:
        return ContentType(OCTET_STREAM)
    name, parameters = parse_options_header(header[:MAX_CONTENT_TYPE])
    media_type = name.decode("latin-1").strip().lower()
    if media_type not in supported:
        media_type = ALIASES.get(media_type, media_type)
    if media_type not in supported:
        hint = ""
        if media_type == URLENCODED:  # what curl says of a body unless it is given a type
            hint = f" With curl, -H 'Content-Type: {OCTET_STREAM}' has the service look at the bytes."
        raise ProblemError("unsupported-media-type", f"Send one of {', '.join(supported)}.{hint}")
    return ContentType(media_type, parameters.get(b"boundary") if media_type == MULTIPART else None)


def content_type_of(request: Request, supported: tuple[str, ...]) -> ContentType:
    """Return the content type of a request; arguments and errors as `parse_content_type`, and `bad-header`."""
    if len(request.headers.getlist("content-type")) > 1:
        raise ProblemError("bad-header", "Content-Type occurs more than once. Send it once.")
    return parse_content_type(request.headers.get("content-type"), supported)
