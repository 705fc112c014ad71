"""Tokens and latents as bytes: the table of formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from media.identify import HEAD_BYTES, sniff
from service.errors import ProblemError
from service.formats import json, msgpack, npy, npz, safetensors
from service.formats.media_types import JSON, MSGPACK, NPY, NPZ, SAFETENSORS
from service.formats.result import EncodeResult
from service.types import Want


@dataclass(frozen=True)
class Format:
    """One serialisation: its writer and its reader, which takes the most bytes that arrays may inflate to."""

    dump: Callable[[EncodeResult], bytes]
    load: Callable[[bytes, int], EncodeResult]


FORMATS = {
    MSGPACK: Format(msgpack.dump, msgpack.load),
    JSON: Format(json.dump, json.load),
    SAFETENSORS: Format(safetensors.dump, safetensors.load),
    NPZ: Format(npz.dump, npz.load),
    NPY: Format(npy.dump, npy.load),
}


# The first one is the default: ordinary tools open an npz. Programs ask for msgpack, which is 0.1 ms cheaper to write.
CODES_TYPES = (NPZ, MSGPACK, SAFETENSORS, JSON, NPY)


def codes_offers(want: Want, in_json: bool = True) -> tuple[str, ...]:
    """Return the media types that hold these outputs, the default first.

    Args:
        want: of them; npy holds tokens alone.
        in_json: whether they are few enough for lists in JSON.
    """
    left_out = {NPY} if want != "tokens" else set()
    return tuple(name for name in CODES_TYPES if name not in left_out and (in_json or name != JSON))


def write_codes(result: EncodeResult, media_type: str) -> bytes:
    """Return the bytes of a result in a media type of `FORMATS`."""
    return FORMATS[media_type].dump(result)


def read_codes(data: bytes, media_type: str | None = None, max_bytes: int = 2**31 - 1) -> EncodeResult:
    """Return the result in `data`, which may be hostile.

    Args:
        data: the whole body or file.
        media_type: a key of `FORMATS`; None goes by the first bytes.
        max_bytes: the most that its arrays may hold once inflated.

    Raises:
        ProblemError: for anything wrong with the bytes; `unsupported-media-type` when they are of no format.
    """
    media_type = media_type or sniff_codes(data[:64])
    if media_type is None:
        found = sniff(data[:HEAD_BYTES])
        detail = "The bytes must be npz, safetensors, msgpack, JSON or npy" + (f", not {found}." if found else ".")
        raise ProblemError("unsupported-media-type", detail)
    return FORMATS[media_type].load(data, max_bytes)


def sniff_codes(head: bytes) -> str | None:
    """Return the media type of a result by its first bytes, or None.

    Args:
        head: the first 16 bytes or more.
    """
    if head.startswith(b"PK\x03\x04"):
        return NPZ
    if head.startswith(b"\x93NUMPY"):
        return NPY
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":
        return SAFETENSORS
    if head.lstrip()[:1] == b"{":
        return JSON
    if head and (0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)) and sniff(head) is None:  # 0x89 begins a PNG too
        return MSGPACK
    return None
