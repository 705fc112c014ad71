"""msgpack: a decoder that hostile input cannot exhaust, and tokens or latents as envelopes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from service.errors import ProblemError
from service.formats.json import unique_map
from service.formats.result import EncodeResult, build
from service.formats.tensors import pack_tensor, unpack_tensor

# Bulk data belongs in byte strings, so every other structure is small.
MAX_MAP = 64
MAX_ARRAY = 4096
MAX_STRING = 8192
MAX_ELEMENTS = 65_536


def pack(value: object) -> bytes:
    """Return the msgpack bytes of plain data and envelopes."""
    return bytes(msgpack.packb(value, use_bin_type=True))


def unpack(data: bytes | bytearray, max_bytes: int) -> dict[str, Any]:
    """Return the map in a msgpack body.

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
            raise ValueError(f"The body has more than {MAX_ELEMENTS} elements.")
        return items

    def mapping(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        return unique_map(count(list(pairs)))

    def refuse(code: int, payload: bytes) -> None:
        raise ValueError(f"The extension type {code} is not supported.")

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
        raise ProblemError(
            "malformed-body",
            f"The body must be one msgpack map with at most {MAX_ELEMENTS} elements. Send arrays as byte strings.",
        ) from error
    if not isinstance(value, dict):
        raise ProblemError("malformed-body", "The body must be a msgpack map.")
    return value


def dump(result: EncodeResult) -> bytes:
    """Return a result as a map of its metadata and of an envelope a tensor."""
    return pack(result.meta.model_dump() | {name: pack_tensor(array) for name, array in result.tensors.items()})


def load(data: bytes, max_bytes: int) -> EncodeResult:
    """Return the result in a map, none of whose tensors is larger than `max_bytes`."""
    fields = unpack(data, max_bytes)
    envelopes = {name: fields.pop(name, None) for name in ("tokens", "latents")}
    tensors = {name: unpack_tensor(value, f"`{name}`") for name, value in envelopes.items() if value is not None}
    return build(tensors, fields)
