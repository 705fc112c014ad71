"""The parts of the OpenAPI document that describe bodies and options which the routes parse themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from media.media_types import MEDIA_TYPES
from service.api.body import CODES_BODY_TYPES, MEDIA_BODY_TYPES, MULTIPART, OCTETS
from service.api.errors import PROBLEM_TYPE
from service.formats.media_types import JSON, MSGPACK, NPY, NPZ, SAFETENSORS
from service.formats.pixels import PIXEL_TYPES

INTEGER = {"type": "integer"}
BINARY = {"type": "string", "format": "binary"}
MULTIPART_OPTIONS = {"type": "string", "description": "JSON object of the query's options"}
ENVELOPE = {
    "type": "object",
    "required": ["dtype", "shape", "data"],
    "description": "little-endian, C order; data is base64 in JSON and bytes in msgpack",
    "properties": {
        "dtype": {"type": "string", "enum": ["|u1"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "string", "format": "byte"},
    },
}
MEDIA_MAP = {
    "type": "object",
    "description": "either media or array",
    "properties": {
        "media": {"type": "string", "format": "byte"},
        "array": ENVELOPE,
        "options": {"type": "object"},
    },
}
RESULT_MAP = {
    "type": "object",
    "description": "the answer of /encode, as it came; bundle and tokens (or latents) are what is needed",
    "properties": {
        "bundle": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "tokens": {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": INTEGER}}},
    },
}
PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "limit": {"type": "number"},
        "actual": {"type": "number"},
        "errors": {"type": "array", "items": {"type": "object"}},
        "retry_after_seconds": {"type": "number"},
    },
}


def describe(options: type[BaseModel], of_media: bool, answers_codes: bool) -> dict[str, Any]:
    """The operation fields of a `POST` route.

    Args:
        options: the model of its query.
        of_media: whether its body is media (or tokens).
        answers_codes: whether it answers tokens (or pixels).
    """
    answers = (MSGPACK, JSON, SAFETENSORS, NPZ, NPY) if answers_codes else PIXEL_TYPES
    return {
        "parameters": _parameters(options),
        "requestBody": {"required": True, "content": _media_content() if of_media else _codes_content()},
        "responses": {
            "200": {"description": "chosen by Accept", "content": {name: {"schema": BINARY} for name in answers}},
            "default": {"description": "a problem document (RFC 9457)", "content": {PROBLEM_TYPE: {"schema": PROBLEM}}},
        },
    }


def _parameters(options: type[BaseModel]) -> list[dict[str, Any]]:
    parameters = []
    for name, schema in options.model_json_schema()["properties"].items():
        rest = {key: value for key, value in schema.items() if key not in ("title", "description")}
        parameter = {"name": name, "in": "query", "required": False, "schema": _without_null(rest)}
        if "description" in schema:
            parameter["description"] = schema["description"]
        parameters.append(parameter)
    return parameters


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is missing rather than null."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    return {key: value for key, value in schema.items() if key not in ("anyOf", "default")} | choices[0]


def _media_content() -> dict[str, Any]:
    schemas: dict[str, Any] = dict.fromkeys((*MEDIA_TYPES, OCTETS), BINARY)
    form = {"media": BINARY, "options": MULTIPART_OPTIONS}
    schemas[MULTIPART] = {"type": "object", "required": ["media"], "properties": form}
    schemas[MSGPACK] = schemas[JSON] = MEDIA_MAP
    return {name: {"schema": schemas[name]} for name in MEDIA_BODY_TYPES}


def _codes_content() -> dict[str, Any]:
    form = {"tokens": BINARY, "options": MULTIPART_OPTIONS}
    multipart = {"type": "object", "required": ["tokens"], "properties": form}
    schemas: dict[str, Any] = {MULTIPART: multipart, JSON: RESULT_MAP}
    return {name: {"schema": schemas.get(name, BINARY)} for name in CODES_BODY_TYPES}
