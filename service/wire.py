"""The wire's building blocks: tensor envelopes, and msgpack and JSON decoders that hostile input cannot exhaust."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from service.errors import ProblemError

DTYPES = ("|u1", "<u2", "<u4", "<i4", "<i8", "<f2", "<f4")
MAX_RANK = 5
MAX_AXIS = 2**31

# Bulk data belongs in byte strings, so every other msgpack or JSON structure is small.
MAX_MAP = 64
MAX_ARRAY = 4096
MAX_STRING = 8192
MAX_ELEMENTS = 65_536
MAX_JSON_CONTAINERS = 200_000

# The prefix of a data URL (RFC 2397): its length is bounded, and its media type is a claim that nobody trusts.
DATA_URL = re.compile(r"data:[!-+\--~]{0,256};base64,", re.ASCII | re.IGNORECASE)
LINE_SPACE = b" \t\r\n"


def pack_tensor(array: NDArray[Any]) -> dict[str, Any]:
    """The msgpack envelope of an array.

    Args:
        array: any shape up to rank 5, of a dtype in `DTYPES`.
    """
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in DTYPES:
        raise ValueError(f"dtype {array.dtype} cannot travel; the wire knows {', '.join(DTYPES)}")
    return {"dtype": little.dtype.str, "shape": list(array.shape), "data": little.tobytes()}


def unpack_tensor(envelope: object, name: str) -> NDArray[Any]:
    """The array in an envelope, read-only and without a copy.

    Args:
        envelope: `{"dtype", "shape", "data": bytes}` as it came off the wire.
        name: what the caller calls this tensor, for the error.

    Raises:
        ProblemError: `invalid-tensor` when the parts do not agree.
    """
    if not isinstance(envelope, dict) or set(envelope) != {"dtype", "shape", "data"}:
        raise ProblemError("invalid-tensor", f"{name} must be a map of exactly dtype, shape and data")
    data = envelope["data"]
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ProblemError("invalid-tensor", f"{name}.data must be bytes")
    return tensor_from(data, envelope["dtype"], envelope["shape"], name)


def tensor_from(data: bytes | bytearray | memoryview, dtype: object, shape: object, name: str) -> NDArray[Any]:
    """Little-endian C-order bytes as an array, after every claim about them is checked.

    Raises:
        ProblemError: `invalid-tensor`.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ProblemError("invalid-tensor", f"{name} has a dtype outside {', '.join(DTYPES)}")
    if not isinstance(shape, list | tuple) or not 1 <= len(shape) <= MAX_RANK:
        raise ProblemError("invalid-tensor", f"{name}.shape must be a list of 1 to {MAX_RANK} integers")
    if not all(type(axis) is int and 0 <= axis < MAX_AXIS for axis in shape):
        raise ProblemError("invalid-tensor", f"{name}.shape must hold integers from 0 to {MAX_AXIS - 1}")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    actual = memoryview(data).nbytes
    if expected != actual:
        raise ProblemError(
            "invalid-tensor", f"{name} needs {expected} bytes for its dtype and shape, but {actual} came"
        )
    if expected == 0:
        raise ProblemError("invalid-tensor", f"{name} has an empty axis")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def pack(value: object) -> bytes:
    """msgpack bytes of plain data and envelopes."""
    return bytes(msgpack.packb(value, use_bin_type=True))


def unpack(data: bytes | bytearray, max_bytes: int) -> dict[str, Any]:
    """The map in a msgpack body.

    Args:
        data: the whole body.
        max_bytes: the longest byte string it may hold.

    Raises:
        ProblemError: `malformed-body` for anything but one map of plain values with unique string keys.
    """
    elements = 0

    def count(items: list[Any]) -> list[Any]:
        nonlocal elements
        elements += len(items)
        if elements > MAX_ELEMENTS:
            raise ValueError("too many elements")
        return items

    def mapping(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        return _unique(count(list(pairs)))

    def refuse(code: int, payload: bytes) -> None:
        raise ValueError("extension types are not supported")

    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=mapping,
            list_hook=count,
            ext_hook=refuse,
            max_str_len=MAX_STRING,
            max_bin_len=max_bytes,
            max_array_len=MAX_ARRAY,
            max_map_len=MAX_MAP,
            max_ext_len=0,
        )
    except ProblemError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ProblemError("malformed-body", "the body is not one msgpack map within the decoder's limits") from error
    if not isinstance(value, dict):
        raise ProblemError("malformed-body", "the body must be a msgpack map")
    return value


def read_json(data: bytes | bytearray | str, what: str = "the body") -> dict[str, Any]:
    """The object in a JSON text: UTF-8, unique keys, finite numbers, bounded structure.

    Args:
        data: the whole text.
        what: its name in an error.

    Raises:
        ProblemError: `malformed-body`.
    """

    def refuse(constant: str) -> None:
        raise ValueError("NaN and Infinity are not JSON")

    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_JSON_CONTAINERS:
            raise ProblemError("malformed-body", f"{what} holds more than {MAX_JSON_CONTAINERS} lists and objects")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=refuse)
    except ProblemError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:
        raise ProblemError("malformed-body", f"{what} is not valid JSON") from error
    if not isinstance(value, dict):
        raise ProblemError("malformed-body", f"{what} must be a JSON object")
    return value


def from_base64(text: object, name: str) -> bytes:
    """Decode base64 that may follow the prefix of a data URL and may be wrapped in lines; all else is strict.

    Args:
        text: such as `iVBORw0K...` or `data:image/png;base64,iVBORw0K...`.
        name: what the caller calls this text, for the error.

    Raises:
        ProblemError: `malformed-body`.
    """
    if not isinstance(text, str):
        raise ProblemError("malformed-body", f"{name} must be a base64 string")
    try:
        prefix = DATA_URL.match(text)
        encoded = text[prefix.end() if prefix else 0 :].encode("ascii")
        return base64.b64decode(encoded.translate(None, LINE_SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProblemError("malformed-body", f"{name} is not valid base64") from error


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ProblemError("malformed-body", "every key must be a string")
        if key in result:
            raise ProblemError("malformed-body", "a key occurs twice")
        result[key] = value
    return result
