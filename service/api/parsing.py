"""Request bodies of every form to media, an array or tokens, and options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.identify import HEAD_BYTES, IMAGE_TYPES, MEDIA_TYPES, sniff
from media.limits import check_bytes
from service.api.body import Body, BodyKind
from service.api.content_type import MULTIPART, parse_content_type
from service.api.items import Items, parse_items
from service.api.multipart import Part, read_parts
from service.errors import ProblemError
from service.formats.codes import FORMATS, read_codes, sniff_codes
from service.formats.json import from_base64, read_json
from service.formats.media_types import JSON, MSGPACK, MSGPACK_SEQUENCE, OCTET_STREAM
from service.formats.msgpack import result_from, unpack
from service.formats.result import EncodeMeta, EncodeResult
from service.formats.tensors import unpack_tensor
from service.operations.clip import ClipSource, check_array
from service.settings import Limits

MAX_OPTIONS_BYTES = 16_384


@dataclass(frozen=True)
class MediaUpload:
    """Pixels to encode, and the `options` value of the body, which is not validated yet."""

    source: ClipSource
    options: object = None


@dataclass(frozen=True)
class CodesUpload:
    """Tokens or latents to decode, and the `options` value of the body."""

    result: EncodeResult
    options: object = None


def parse_media(body: Body, limits: Limits) -> MediaUpload:
    """Return the media or the array in the body of `/encode` and `/reconstruct`.

    Raises:
        ProblemError: for anything wrong with it.
    """
    media_type = body.content_type.media_type
    if media_type == MULTIPART:
        parts = read_parts(body, "media")
        part = parts["media"]
        declared = parse_content_type(part.content_type, (*MEDIA_TYPES, OCTET_STREAM)).media_type
        upload = MediaUpload(ClipSource(part.data, _declared(declared)), options_part(parts))
    elif media_type == MSGPACK:
        upload = _from_map(unpack(body.data, limits.tensor_bytes), limits, in_json=False)
    elif media_type == JSON:
        upload = _from_map(read_json(body.data), limits, in_json=True)
    else:
        upload = MediaUpload(ClipSource(body.data, _declared(media_type)))
    check_media(upload.source, limits)
    return upload


def parse_encode(body: Body, limits: Limits) -> MediaUpload | Items[ClipSource]:
    """Return the media or the array in the body of `/encode`, or many of them; errors as `parse_media`."""
    if body.content_type.media_type != MSGPACK:
        return parse_media(body, limits)
    fields = unpack(body.data, limits.tensor_bytes)
    if "items" in fields:
        return parse_items(fields, limits, lambda item: _item(item, limits))
    upload = _from_map(fields, limits, in_json=False)
    check_media(upload.source, limits)
    return upload


def parse_codes(body: Body, limits: Limits) -> CodesUpload | Items[EncodeResult]:
    """Return the tokens or latents in the body of `/decode`, or many of them.

    Raises:
        ProblemError: for anything wrong with them.
    """
    media_type, data, options = body.content_type.media_type, body.data, None
    if media_type == MULTIPART:
        parts = read_parts(body, "tokens")
        part = parts["tokens"]
        data, options = part.data, options_part(parts)
        media_type = parse_content_type(part.content_type, (*FORMATS, OCTET_STREAM)).media_type
    if media_type == OCTET_STREAM:
        found = sniff_codes(data[:64])
        if found is None:
            raise ProblemError("unsupported-media-type", f"Send one of {', '.join(CODES.types)}.")
        media_type = found
    if media_type == JSON and len(data) > limits.json_bytes:
        detail = f"JSON may have {limits.json_bytes} bytes; this has {len(data)}. Send npz or msgpack instead."
        raise ProblemError("body-too-large", detail, limit=limits.json_bytes, actual=len(data))
    if media_type == MSGPACK:
        fields = unpack(data, limits.tensor_bytes)
        if "items" in fields:
            return parse_items(fields, limits, result_from)
        return CodesUpload(result_from(fields), options)
    return CodesUpload(read_codes(data, media_type, limits.tensor_bytes), options)


def media_from(value: object, in_json: bool) -> ClipSource:
    """Return the file in the field `media` of a map.

    Raises:
        ProblemError: `malformed-body`.
    """
    media = from_base64(value, "`media`") if in_json else value
    if not isinstance(media, bytes):
        raise ProblemError("malformed-body", "`media` must be a byte string: the whole file.")
    return ClipSource(media)


def array_from(value: object, limits: Limits, in_json: bool) -> ClipSource:
    """Return the pixels in the field `array` of a map.

    Raises:
        ProblemError: for anything wrong with them.
    """
    if in_json and isinstance(value, dict) and "data" in value:
        value = value | {"data": from_base64(value["data"], "`array.data`")}
    return ClipSource(array=_check_array(unpack_tensor(value, "`array`"), limits))


def check_media(source: ClipSource, limits: Limits) -> ClipSource:
    """Return the source, whose file is not over the limit of its kind.

    Raises:
        MediaError: `body-too-large`.
    """
    if source.media is not None:
        kind = sniff(source.media[:HEAD_BYTES]) or ""
        check_bytes(limits, len(source.media), is_video=not kind.startswith("image/"))
    return source


def _from_map(fields: dict[str, Any], limits: Limits, in_json: bool) -> MediaUpload:
    has_array, has_media = "array" in fields, "media" in fields
    if has_array == has_media or not set(fields) <= {"media", "array", "options"}:
        code = "malformed-body" if has_array or has_media else "missing-part"
        raise ProblemError(code, "The body must hold either `media` or `array`, and perhaps `options`.")
    source = array_from(fields["array"], limits, in_json) if has_array else media_from(fields["media"], in_json)
    return MediaUpload(source, fields.get("options"))


def _item(fields: dict[str, Any], limits: Limits) -> ClipSource:
    if "options" in fields:
        raise ProblemError("malformed-body", "An item holds `media` or `array`; `options` are those of the whole body.")
    return check_media(_from_map(fields, limits, in_json=False).source, limits)


def _declared(media_type: str) -> str | None:
    return None if media_type == OCTET_STREAM else media_type


def _check_array(array: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        detail = f"`array` has the dtype {array.dtype.str}; it must be |u1, RGB from 0 to 255, not scaled."
        raise ProblemError("invalid-tensor", detail)
    if array.ndim not in (3, 4) or array.shape[-1] != 3:
        detail = f"`array` has the shape {array.shape}; it must be (height, width, 3) or (frames, height, width, 3)."
        raise ProblemError("invalid-tensor", detail)
    clip = array if array.ndim == 4 else array[None]
    check_array(clip.shape[:3], limits)
    return clip


def options_part(parts: dict[str, Part]) -> object:
    """Return the JSON object in the part `options`, or None.

    Raises:
        ProblemError: `body-too-large`, `malformed-body`.
    """
    if "options" not in parts:
        return None
    data = parts["options"].data
    if len(data) > MAX_OPTIONS_BYTES:
        detail = f"The part `options` may have {MAX_OPTIONS_BYTES} bytes; this one has {len(data)}."
        raise ProblemError("body-too-large", detail, MAX_OPTIONS_BYTES, len(data))
    return read_json(data, "The part `options`")


_ENVELOPE = {
    "type": "object",
    "required": ["dtype", "shape", "data"],
    "description": "little-endian, C order; data is base64 in JSON and bytes in msgpack",
    "properties": {
        "dtype": {"type": "string", "enum": ["|u1"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "string", "format": "byte"},
    },
}
_MEDIA_MAP: dict[str, Any] = {
    "type": "object",
    "description": "either media or array",
    "properties": {
        "media": {"type": "string", "format": "byte"},
        "array": _ENVELOPE,
        "options": {"type": "object"},
    },
}


def _nested_lists(depth: int, number: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": number}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


_META = EncodeMeta.model_json_schema()
_RESULT_MAP = _META | {
    "description": "the answer of /encode, as it came; bundle and tokens or latents are what is needed",
    "properties": _META["properties"]
    | {
        "tokens": _nested_lists(3, "integer") | {"description": "tokens (t, h, w)"},
        "latents": _nested_lists(4, "number") | {"description": "latents (t, h, w, c)"},
    },
    "anyOf": [{"required": ["tokens"]}, {"required": ["latents"]}],
}

MEDIA = BodyKind(
    types=(*MEDIA_TYPES, OCTET_STREAM, MULTIPART, MSGPACK, JSON),
    part="media",
    unlabelled_bytes=lambda limits: max(limits.image_bytes, limits.video_bytes),
    parse=parse_media,
    maps=(MSGPACK, JSON),
    schema=_MEDIA_MAP,
    inline=frozenset({MSGPACK, OCTET_STREAM, *IMAGE_TYPES}),
)
ENCODE_MEDIA = replace(
    MEDIA,
    parse=parse_encode,
    schema=_MEDIA_MAP
    | {
        "description": "either media or array; in msgpack, or items",
        "properties": _MEDIA_MAP["properties"]
        | {"items": {"type": "array", "items": {"type": "object"}, "description": "maps of media or array each"}},
    },
)
CODES = BodyKind(
    types=(*FORMATS, OCTET_STREAM, MULTIPART, MSGPACK_SEQUENCE),
    part="tokens",
    unlabelled_bytes=lambda limits: limits.tensor_bytes,
    parse=parse_codes,
    maps=(JSON,),
    schema=_RESULT_MAP,
    inline=frozenset({MSGPACK}),  # other bytes may be an npz that inflates, or JSON
)
