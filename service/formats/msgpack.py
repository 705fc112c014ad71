"""msgpack: a decoder that hostile input cannot exhaust, and tokens or latents as envelopes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
MAX_REST = 2**20


def pack(value: object) -> bytes:
    """Return the msgpack bytes of plain data and envelopes."""
    return bytes(msgpack.packb(value, use_bin_type=True))


class _Bounds:
    """The bounds of one value: what the hooks of the decoder count."""

    def __init__(self) -> None:
        self.elements = 0

    def arguments(self, max_bytes: int) -> dict[str, Any]:
        """Return the arguments of a decoder whose longest byte string has so many bytes."""
        return {
            "raw": False,
            "strict_map_key": True,
            "object_pairs_hook": lambda pairs: unique_map(self._count(list(pairs))),
            "list_hook": self._count,
            "ext_hook": _refuse_extension,
            "max_str_len": MAX_STRING,
            "max_bin_len": max_bytes,
            "max_array_len": MAX_ARRAY,
            "max_map_len": MAX_MAP,
            "max_ext_len": 0,
        }

    def _count(self, items: list[Any]) -> list[Any]:
        self.elements += 1 + len(items)  # an empty one, whose parent may never end, costs a call of this too
        if self.elements > MAX_ELEMENTS:
            raise ValueError(f"The body has more than {MAX_ELEMENTS} elements.")
        return items


def _refuse_extension(code: int, payload: bytes) -> None:
    raise ValueError(f"The extension type {code} is not supported.")


@contextmanager
def _refusing_damage(what: str) -> Iterator[None]:
    try:
        yield
    except ProblemError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ProblemError(
            "malformed-body", f"{what} with at most {MAX_ELEMENTS} elements. Send arrays as byte strings."
        ) from error


class Unpacker:
    """A decoder of msgpack maps that follow one another and arrive piece by piece.

    Args:
        max_bytes: the longest byte string of a map.
    """

    def __init__(self, max_bytes: int) -> None:
        self._bounds = _Bounds()
        # A map may have other values than its byte string, and the start of the next one may have arrived with it.
        self._unpacker = msgpack.Unpacker(max_buffer_size=2 * max_bytes + MAX_REST, **self._bounds.arguments(max_bytes))

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the maps that are complete now; exhaust it before the next call.

        Raises:
            ProblemError: `malformed-body` for anything but maps of plain values with unique string keys.
        """
        with _refusing_damage("The body must be a sequence of msgpack maps"):
            self._unpacker.feed(data)
        while True:
            with _refusing_damage("The body must be a sequence of msgpack maps"):
                try:
                    value = self._unpacker.unpack()
                except msgpack.OutOfData:
                    return
            self._bounds.elements = 0  # here alone: a map may come in any number of pieces
            if not isinstance(value, dict):
                raise ProblemError("malformed-body", "The body must be a sequence of msgpack maps.")
            yield value


def unpack(data: bytes | bytearray, max_bytes: int) -> dict[str, Any]:
    """Return the map in a msgpack body.

    Args:
        data: the whole body.
        max_bytes: the longest byte string it may hold.

    Raises:
        ProblemError: `malformed-body` for anything but one map of plain values with unique string keys.
    """
    with _refusing_damage("The body must be one msgpack map"):
        value = msgpack.unpackb(data, **_Bounds().arguments(max_bytes))
    if not isinstance(value, dict):
        raise ProblemError("malformed-body", "The body must be a msgpack map.")
    return value


def result_map(result: EncodeResult) -> dict[str, Any]:
    """Return a result as a map of its metadata and of an envelope a tensor."""
    return result.meta.model_dump() | {name: pack_tensor(array) for name, array in result.tensors.items()}


def dump(result: EncodeResult) -> bytes:
    """Return the bytes of the map of a result."""
    return pack(result_map(result))


def load(data: bytes, max_bytes: int) -> EncodeResult:
    """Return the result in a map, none of whose tensors is larger than `max_bytes`."""
    return result_from(unpack(data, max_bytes))


def result_from(fields: dict[str, Any]) -> EncodeResult:
    """Return the result in a map.

    Raises:
        ProblemError: for anything wrong with it.
    """
    fields = dict(fields)
    envelopes = {name: fields.pop(name, None) for name in ("tokens", "latents")}
    tensors = {name: unpack_tensor(value, f"`{name}`") for name, value in envelopes.items() if value is not None}
    return build(tensors, fields)
