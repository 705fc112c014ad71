"""Options of a request, from its query and its body."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from media.errors import MediaError
from service.errors import ProblemError
from service.formats.validation import field_errors, public_names

MAX_QUERY_BYTES = 4096
REMEMBERED_QUERIES = 256

Options = TypeVar("Options", bound=BaseModel)


def parse_query(query: bytes, repeated: Collection[str] = ()) -> dict[str, str | list[str]]:
    """Return the parameters of a query string, each name once, and lists of those that may be repeated.

    Raises:
        ProblemError: `invalid-options`.
    """
    if len(query) > MAX_QUERY_BYTES:
        detail = f"The query may have {MAX_QUERY_BYTES} bytes; this one has {len(query)}."
        raise ProblemError("invalid-options", detail, limit=MAX_QUERY_BYTES, actual=len(query))
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError as error:
        raise ProblemError("invalid-options", "The query must be ASCII: name=value&name=value, at most 64.") from error
    parameters: dict[str, str | list[str]] = {}
    for name, value in pairs:
        if name in repeated:
            parameters[name] = [*parameters.get(name, ()), value]
        elif name in parameters:
            raise ProblemError("invalid-options", "A query parameter occurs more than once. Send each once.")
        else:
            parameters[name] = value
    return parameters


def parse_options(kind: type[Options], query: bytes, body: object = None) -> Options:
    """Return the options of a request, from its query and from the `options` of its body together.

    Args:
        kind: the use case's model.
        query: the raw query string.
        body: the `options` value of the body, or None.

    Raises:
        ProblemError: `invalid-options`, with pointers and without the caller's values.
    """
    if body is None:
        return _from_query(kind, query)
    if not isinstance(body, dict):
        raise ProblemError("invalid-options", "`options` of the body must be a map of names to values.")
    values = _values(kind, query)
    if set(values) & set(body):
        raise ProblemError("invalid-options", "An option is in the query and in the body. Send it once.")
    return _validated(kind, values | body)


@lru_cache(REMEMBERED_QUERIES)
def _from_query(kind: type[Options], query: bytes) -> Options:
    """Return options, which nobody can change; programs send one query for ever, so they are remembered."""
    return _validated(kind, _values(kind, query))


def _values(kind: type[Options], query: bytes) -> dict[str, Any]:
    return dict(parse_query(query, getattr(kind, "repeated", ())))


def _validated(kind: type[Options], values: dict[str, Any]) -> Options:
    try:
        return kind.model_validate(values)
    except MediaError as error:  # options that contradict each other
        raise ProblemError.of(error) from error
    except ValidationError as error:
        detail = f"An option is invalid; `errors` names it. The options are {', '.join(public_names(kind))}."
        raise ProblemError("invalid-options", detail, errors=field_errors(error, kind)) from error
