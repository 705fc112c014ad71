"""JSON: a decoder that hostile input cannot exhaust, base64 inside it, and tokens or latents as nested lists."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ProblemError
from service.formats.result import EncodeResult, build

MAX_CONTAINERS = 200_000
MAX_KEYS = 4096  # counted by colons, before anything is built of them; no body of ours has a hundred

# The prefix of a data URL (RFC 2397): its length is bounded, and its media type is a claim that nobody trusts.
DATA_URL = re.compile(r"data:[!-+\--~]{0,256};base64,", re.ASCII | re.IGNORECASE)
LINE_SPACE = b" \t\r\n"


def read_json(data: bytes | bytearray | str, what: str = "The body") -> dict[str, Any]:
    """Return the object in a JSON text: UTF-8, unique keys, finite numbers, bounded structure.

    Args:
        data: the whole text.
        what: its name at the start of an error.

    Raises:
        ProblemError: `malformed-body`.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON.")

    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_CONTAINERS:
            raise ProblemError("malformed-body", f"{what} may hold {MAX_CONTAINERS} lists and objects; it holds more.")
        if text.count(":") > MAX_KEYS:
            raise ProblemError("malformed-body", f"{what} may hold {MAX_KEYS} colons; it holds more.")
        value = json.loads(text, object_pairs_hook=unique_map, parse_constant=refuse)
    except ProblemError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:
        raise ProblemError("malformed-body", f"{what} must be JSON in UTF-8, without NaN and Infinity.") from error
    if not isinstance(value, dict):
        raise ProblemError("malformed-body", f"{what} must be a JSON object.")
    return value


def unique_map(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return the map of these pairs.

    Raises:
        ProblemError: `malformed-body` for a key that occurs twice or is not a string.
    """
    result: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ProblemError("malformed-body", "Every key must be a string.")
        if key in result:
            raise ProblemError("malformed-body", "A key occurs twice. Send it once.")
        result[key] = value
    return result


def from_base64(text: object, name: str) -> bytes:
    """Decode base64 that may follow the prefix of a data URL and may be wrapped in lines; all else is strict.

    Args:
        text: such as `iVBORw0K...` or `data:image/png;base64,iVBORw0K...`.
        name: the text's name at the start of an error, in backticks.

    Raises:
        ProblemError: `malformed-body`.
    """
    if not isinstance(text, str):
        raise ProblemError("malformed-body", f"{name} must be a base64 string.")
    try:
        prefix = DATA_URL.match(text)
        encoded = text[prefix.end() if prefix else 0 :].encode("ascii")
        return base64.b64decode(encoded.translate(None, LINE_SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProblemError("malformed-body", f"{name} must be valid base64, padding included.") from error


def dump(result: EncodeResult) -> bytes:
    """Return a result as a JSON object."""
    lists = {name: array.tolist() for name, array in result.tensors.items()}
    return json.dumps(result.meta.model_dump() | lists, separators=(",", ":"), allow_nan=False).encode()


def load(data: bytes, max_bytes: int) -> EncodeResult:
    """Return the result in a JSON object; the caller has bounded the length of `data`."""
    fields = read_json(data)
    pairs = {name: fields.pop(name, None) for name in ("tokens", "latents")}
    return build({name: _nested(value, name) for name, value in pairs.items() if value is not None}, fields)


def _nested(value: object, name: str) -> NDArray[Any]:
    if not isinstance(value, list):
        raise ProblemError("invalid-tensor", f"`{name}` must be nested lists of numbers.")
    try:
        array = np.array(value)
        kind = array.dtype.kind
        if kind not in "iuf" or array.size == 0:
            raise ValueError("The lists must hold numbers.")
        with np.errstate(over="ignore"):
            return array.astype(np.float32) if kind == "f" or name == "latents" else array.astype(np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProblemError("invalid-tensor", f"`{name}` must be nested lists of numbers, all full.") from error
