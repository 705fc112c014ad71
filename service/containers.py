"""Readers of npy, npz and safetensors bytes that trust no size, run no pickle and inflate no bomb."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ProblemError
from service.wire import read_json, tensor_from

MAX_NPY_HEADER = 4096
MAX_SAFETENSORS_HEADER = 65_536
MAX_MEMBERS = 8
ZIP_ENTRY = b"PK\x01\x02"
MAX_ZIP_ENTRIES = 64  # more than members, since packed data may hold the signature by chance
SAFETENSORS_DTYPES = {
    "U8": "|u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "BF16": "bfloat16",  # numpy has no such type
}
# Types that no other form takes travel as these of the same width.
CARRIERS = {"<u8": "<i8", "|i1": "|u1", "<i2": "<u2", "bfloat16": "<u2"}


def read_npy(data: bytes, name: str) -> NDArray[Any]:
    """One array of an allowed dtype.

    Args:
        data: the bytes of a `.npy` file, format 1.0 or 2.0.
        name: what to call the array in an error.

    Raises:
        ProblemError: `malformed-body` when this is not a npy file, `invalid-tensor` when its array cannot be used.
    """
    shape, fortran, dtype, payload = _npy_header(data, name)
    array = tensor_from(payload, dtype.str, shape[::-1] if fortran else shape, name)
    return array.T if fortran else array


def read_npz(data: bytes, max_bytes: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the metadata of a `tokens.npz`.

    Args:
        data: the bytes of the file.
        max_bytes: what all members may hold together once inflated.

    Raises:
        ProblemError: `malformed-body`, `body-too-large` or `invalid-tensor`.
    """
    members = _members(data, max_bytes)
    meta = _npy_text(members.pop("meta.npy")) if "meta.npy" in members else {}
    return {name.removesuffix(".npy"): read_npy(body, name) for name, body in members.items()}, meta


def read_safetensors(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The tensors and the `meta` object of a safetensors body.

    Args:
        data: header length (8 bytes, little-endian), JSON header, then the tensors without a gap.

    Raises:
        ProblemError: `malformed-body` or `invalid-tensor`.
    """
    if len(data) < 8:
        raise ProblemError("malformed-body", "the body is too short for a safetensors file")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_SAFETENSORS_HEADER, len(data) - 8):
        raise ProblemError("malformed-body", "the safetensors header is longer than its limit or than the body")
    header = read_json(data[8 : 8 + length], "the safetensors header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ProblemError("malformed-body", "the safetensors metadata must map strings to strings")
    if len(header) > MAX_MEMBERS:
        raise ProblemError("malformed-body", f"the safetensors body holds more than {MAX_MEMBERS} tensors")
    tensors = _safetensors(header, memoryview(data)[8 + length :])
    return tensors, read_json(metadata["meta"], "the metadata") if "meta" in metadata else {}


def _safetensors(header: dict[str, Any], buffer: memoryview) -> dict[str, NDArray[Any]]:
    spans = []
    tensors = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ProblemError("malformed-body", "a safetensors entry must hold exactly dtype, shape and data_offsets")
        offsets = entry["data_offsets"]
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
            raise ProblemError("malformed-body", "data_offsets must be two integers")
        start, end = offsets
        if not 0 <= start <= end <= len(buffer):
            raise ProblemError("malformed-body", "data_offsets point outside the body")
        dtype = entry["dtype"]
        known = SAFETENSORS_DTYPES.get(dtype) if isinstance(dtype, str) else None
        if known is None:
            raise ProblemError(
                "invalid-tensor", f"a safetensors entry has a dtype outside {', '.join(SAFETENSORS_DTYPES)}"
            )
        carrier = tensor_from(buffer[start:end], CARRIERS.get(known, known), entry["shape"], "a tensor")
        tensors[name] = _widened(carrier) if known == "bfloat16" else carrier.view(known)
        spans.append((start, end))
    expected = 0
    for start, end in sorted(spans):
        if start != expected:
            raise ProblemError("malformed-body", "the safetensors entries overlap or leave a gap")
        expected = end
    if expected != len(buffer):
        raise ProblemError("malformed-body", "the safetensors body is longer than its entries say")
    return tensors


def _widened(halves: NDArray[Any]) -> NDArray[np.float32]:
    """Turn the bits of bfloat16 into float32, which begins with the same bits."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def _members(data: bytes, max_bytes: int) -> dict[str, bytes]:
    if data.count(ZIP_ENTRY) > MAX_ZIP_ENTRIES:  # `ZipFile` builds an object for each before anyone can count them
        raise ProblemError("malformed-body", f"an npz holds at most {MAX_MEMBERS} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_MEMBERS or len({entry.filename for entry in entries}) != len(entries):
                raise ProblemError("malformed-body", f"an npz holds at most {MAX_MEMBERS} members, each name once")
            members = {}
            room = max_bytes
            for entry in entries:
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
                    raise ProblemError("malformed-body", "npz members must be stored or deflated, and not encrypted")
                # The directory's size is a claim: reading one byte past the room left finds out.
                with archive.open(entry) as member:
                    body = member.read(room + 1)
                if len(body) > room:
                    raise ProblemError("body-too-large", "the npz holds too many bytes once inflated", limit=max_bytes)
                room -= len(body)
                members[entry.filename] = body
            return members
    except ProblemError:
        raise
    except Exception as error:  # zipfile and zlib raise many kinds on hostile archives
        raise ProblemError("malformed-body", "the body is not a readable npz archive") from error


def _npy_header(data: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], memoryview]:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=MAX_NPY_HEADER)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file, max_header_size=MAX_NPY_HEADER)
        else:
            raise ValueError("unknown npy version")
    except Exception as error:  # the header is a Python literal, and its parser raises many kinds
        raise ProblemError("malformed-body", f"{name} is not an npy array of format 1.0 or 2.0") from error
    return shape, fortran, dtype, memoryview(data)[file.tell() :]


def _npy_text(data: bytes) -> dict[str, Any]:
    shape, _, dtype, payload = _npy_header(data, "meta")
    if dtype.kind == "U" and shape == () and dtype.itemsize == len(payload):
        text: str | bytes
        try:
            text = str(np.frombuffer(payload, dtype=dtype)[0])
        except ValueError as error:
            raise ProblemError("malformed-body", "meta holds characters that do not exist") from error
    elif dtype.str == "|u1" and shape == (len(payload),):
        text = bytes(payload)
    else:
        raise ProblemError("malformed-body", "meta must be one string or a row of bytes")
    return read_json(text, "meta")
