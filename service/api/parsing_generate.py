"""Request bodies of `/generate`: options, and a prefix as media, an array or tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from media.identify import MEDIA_TYPES
from service.api.body import Body, BodyKind
from service.api.content_type import MULTIPART, parse_content_type
from service.api.multipart import read_parts
from service.api.openapi import inlined
from service.api.parsing import array_from, check_media, media_from, options_part
from service.errors import ProblemError
from service.formats.codes import FORMATS, read_codes, sniff_codes
from service.formats.json import from_base64, read_json
from service.formats.media_types import JSON, MSGPACK, NPY, NPZ, OCTET_STREAM, SAFETENSORS
from service.formats.msgpack import unpack
from service.formats.result import EncodeResult
from service.operations.clip import ClipSource
from service.operations.options_generate import GenerateOptions
from service.settings import Limits

FILES_OF_CODES = (NPZ, SAFETENSORS, NPY)  # in the other formats of codes a body is a map of options
PREFIXES = ("media", "array", "codes")


@dataclass(frozen=True)
class GenerateUpload:
    """The prefix of a sample, or None, and the options of the body, which are not validated yet."""

    source: ClipSource | EncodeResult | None = None
    options: object = None


def parse_generate(body: Body, limits: Limits) -> GenerateUpload:
    """Return the prefix and the options in the body of `/generate`.

    Raises:
        ProblemError: for anything wrong with it.
    """
    media_type = body.content_type.media_type
    if not body.data:
        return GenerateUpload()
    if media_type == MULTIPART:
        parts = read_parts(body, "media")
        declared = parse_content_type(parts["media"].content_type, (*MEDIA_TYPES, *FILES_OF_CODES, OCTET_STREAM))
        return GenerateUpload(_file(parts["media"].data, declared.media_type, limits), options_part(parts))
    if media_type not in (JSON, MSGPACK):
        return GenerateUpload(_file(body.data, media_type, limits))
    in_json = media_type == JSON
    fields = read_json(body.data) if in_json else unpack(body.data, limits.tensor_bytes)
    if {"tokens", "latents"} & set(fields):
        return GenerateUpload(FORMATS[media_type].load(body.data, limits.tensor_bytes))
    return GenerateUpload(_prefix(fields, in_json, limits), fields)


def _prefix(fields: dict[str, Any], in_json: bool, limits: Limits) -> ClipSource | EncodeResult | None:
    """Take the prefix out of a map; the options stay in it."""
    given = [name for name in PREFIXES if name in fields]
    if len(given) > 1:
        raise ProblemError("malformed-body", f"A prefix is one of {', '.join(PREFIXES)}. Send one of them.")
    if not given:
        return None
    value = fields.pop(given[0])
    if given == ["array"]:
        return array_from(value, limits, in_json)
    if given == ["media"]:
        return check_media(media_from(value, in_json), limits)
    data = from_base64(value, "`codes`") if in_json else value
    if not isinstance(data, bytes):
        raise ProblemError("malformed-body", "`codes` must be a byte string: an answer of /encode as it came.")
    return read_codes(data, max_bytes=limits.tensor_bytes)


def _file(data: bytes, media_type: str, limits: Limits) -> ClipSource | EncodeResult:
    found = sniff_codes(data[:64]) if media_type == OCTET_STREAM else media_type
    if found in FILES_OF_CODES:
        return read_codes(data, found, limits.tensor_bytes)
    return check_media(ClipSource(data, None if media_type == OCTET_STREAM else media_type), limits)


_OPTIONS = inlined(GenerateOptions.model_json_schema())
_BYTES = {"type": "string", "format": "byte"}
_MAP = _OPTIONS | {
    "description": "options, and perhaps one of media, array and codes; or an answer of /encode, as it came",
    "properties": _OPTIONS["properties"]
    | {
        "media": _BYTES | {"description": "a picture or a clip"},
        "array": {"type": "object", "description": "pixels, as /encode takes them"},
        "codes": _BYTES | {"description": "an answer of /encode, as it came"},
    },
}
_MAP.pop("additionalProperties")

GENERATE = BodyKind(
    types=(JSON, MSGPACK, *MEDIA_TYPES, *FILES_OF_CODES, OCTET_STREAM, MULTIPART),
    part="media",
    unlabelled_bytes=lambda limits: max(limits.image_bytes, limits.video_bytes, limits.tensor_bytes),
    parse=parse_generate,
    maps=(MSGPACK, JSON),
    schema=_MAP,
    optional=True,
)
