"""The parts of the OpenAPI document that describe bodies and options which the routes parse themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from service.api.authentication import is_public
from service.api.body import BodyKind
from service.api.caller import PRIORITY_HEADER
from service.api.content_type import MULTIPART
from service.api.deadline import HEADER
from service.api.replay import IDEMPOTENCY_HEADER, IDEMPOTENCY_KEY
from service.errors import PROBLEMS
from service.flow import PRIORITIES
from service.formats.media_types import JSON, PROBLEM_TYPE

BINARY = {"type": "string", "format": "binary"}
MULTIPART_OPTIONS = {"type": "string", "description": "JSON object of the query's options"}
PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "path of the page of the code"},
        "title": {"type": "string", "description": "the code in a few words"},
        "status": {"type": "integer", "description": "the status of the answer"},
        "detail": {"type": "string", "description": "a sentence on this refusal, with its remedy"},
        "instance": {"type": "string", "description": "URN of the request"},
        "code": {
            "type": "string",
            "description": "what programs compare; later versions may have more codes",
            "x-extensible-enum": list(PROBLEMS),
        },
        "request_id": {"type": "string", "description": "id of the request, as in X-Request-ID and in the log"},
        "limit": {"type": "number", "description": "the limit that was exceeded"},
        "actual": {"type": "number", "description": "what the request has of it"},
        "errors": {
            "type": "array",
            "description": "the options or fields that are wrong",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer to the option or field"},
                    "detail": {"type": "string", "description": "a sentence on it"},
                },
            },
        },
        "retry_after_seconds": {"type": "number", "description": "seconds to wait before the next attempt"},
    },
}
TIMEOUT = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 999999},
    "description": "time that the caller waits, from the first byte of the request; at most the service's own deadline",
}
PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": ["respond-async"]},
    "description": "respond-async asks for a job in place of the answer",
}
IDEMPOTENCY = {
    "name": IDEMPOTENCY_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
    "description": "the same key with the same request gets the same answer, which is computed once",
}
PRIORITY = {
    "name": PRIORITY_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": list(PRIORITIES), "default": PRIORITIES[0]},
    "description": "bulk work runs where interactive work leaves the device idle, and a little in any case",
}
REFUSAL: dict[int | str, dict[str, Any]] = {
    "default": {"description": "a problem document (RFC 9457)", "content": {PROBLEM_TYPE: {"schema": PROBLEM}}}
}


def describe(
    takes: BodyKind, options: type[BaseModel] | None, gives: Sequence[str], as_job: bool = False
) -> dict[str, Any]:
    """Return the operation fields of a `POST` route.

    Args:
        takes: its bodies.
        options: the model of its query, or None.
        gives: media types of its answers.
        as_job: whether the work can be submitted.
    """
    job = {"202": {"description": "a job", "content": {JSON: {"schema": {"type": "object"}}}}} if as_job else {}
    return {
        "parameters": [
            *([] if options is None else query_parameters(options)),
            TIMEOUT,
            PRIORITY,
            IDEMPOTENCY,
            *((PREFER,) if as_job else ()),
        ],
        "requestBody": {"required": not takes.optional, "content": _content(takes)},
        "responses": {
            "200": {"description": "chosen by Accept", "content": {name: {"schema": BINARY} for name in gives}}
        }
        | job,
    }


def query_parameters(options: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the parameters of a query that `parse_options` reads."""
    parameters = []
    for name, schema in options.model_json_schema()["properties"].items():
        rest = _without_null({key: value for key, value in schema.items() if key != "title"})
        text = {"description": rest.pop("description")} if "description" in rest else {}
        parameters.append({"name": name, "in": "query", "required": False, "schema": rest} | text)
    return parameters


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without null: a query parameter is missing instead."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    return {key: value for key, value in schema.items() if key not in ("anyOf", "default")} | choices[0]


def _content(takes: BodyKind) -> dict[str, Any]:
    form = {takes.part: BINARY, "options": MULTIPART_OPTIONS}
    schemas: dict[str, Any] = {MULTIPART: {"type": "object", "required": [takes.part], "properties": form}}
    schemas |= dict.fromkeys(takes.maps, inlined(takes.schema))
    return {name: {"schema": schemas.get(name, BINARY)} for name in takes.types}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of pydantic's with its definitions in place of the references to them."""
    definitions = schema.get("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolve(definitions[part["$ref"].rpartition("/")[2]])
        if "\n" in (text := part.get("description", "")):  # of a docstring, its first line
            part = part | {"description": text.partition("\n")[0]}
        return {name: resolve(value) for name, value in part.items() if name not in ("$defs", "title")}

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def add_security(schema: dict[str, Any], required: bool) -> None:
    """Add to an OpenAPI document how callers present their key.

    Args:
        schema: the document.
        required: whether the service asks for keys; otherwise a key is optional.
    """
    schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "a key that `omnitok keys add` made"}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if is_public(path) else [{"key": []}] if required else [{}, {"key": []}]
