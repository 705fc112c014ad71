"""npz: tokens, latents and metadata in an archive of arrays, read without pickle and without inflating a bomb."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np

from service.errors import ProblemError
from service.formats.json import read_json
from service.formats.npy import read_header, read_npy
from service.formats.result import EncodeResult, build

MAX_MEMBERS = 8
MAX_META_BYTES = 2**20  # numpy keeps a character in four bytes
ZIP_ENTRY = b"PK\x01\x02"
MAX_ZIP_ENTRIES = 64  # more than members, since packed data may hold the signature by chance


def dump(result: EncodeResult) -> bytes:
    """Return an archive of one array a tensor and of the metadata as a JSON text."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, meta=np.array(result.meta.model_dump_json()), **result.tensors)
    return file.getvalue()


def load(data: bytes, max_bytes: int) -> EncodeResult:
    """Return the result in an archive, whose members may hold `max_bytes` together once inflated.

    Raises:
        ProblemError: `malformed-body`, `body-too-large` or `invalid-tensor`.
    """
    members = _members(data, max_bytes)
    meta = _text(members.pop("meta.npy")) if "meta.npy" in members else {}
    return build(
        {name.removesuffix(".npy"): read_npy(body, "A member of the npz") for name, body in members.items()}, meta
    )


def _members(data: bytes, max_bytes: int) -> dict[str, bytes]:
    if data.count(ZIP_ENTRY) > MAX_ZIP_ENTRIES:  # `ZipFile` builds an object for each before anyone can count them
        raise ProblemError("malformed-body", f"An npz may hold {MAX_MEMBERS} members.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_MEMBERS or len({entry.filename for entry in entries}) != len(entries):
                raise ProblemError("malformed-body", f"An npz may hold {MAX_MEMBERS} members, each name once.")
            members = {}
            left = max_bytes
            for entry in entries:
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
                    raise ProblemError("malformed-body", "Members of an npz must be stored or deflated.")
                # The directory's size is a claim: reading one byte past what is left finds out.
                with archive.open(entry) as member:
                    body = member.read(left + 1)
                if len(body) > left:
                    detail = f"An npz may hold {max_bytes} bytes once inflated; this one holds more."
                    raise ProblemError("body-too-large", detail, limit=max_bytes)
                left -= len(body)
                members[entry.filename] = body
            return members
    except ProblemError:
        raise
    except Exception as error:  # zipfile and zlib raise many kinds on hostile archives
        raise ProblemError("malformed-body", "The body cannot be read as an npz archive.") from error


def _text(data: bytes) -> dict[str, Any]:
    shape, _, dtype, payload = read_header(data, "`meta`")
    if len(payload) > MAX_META_BYTES:
        detail = f"`meta` may have {MAX_META_BYTES} bytes; it has {len(payload)}."
        raise ProblemError("body-too-large", detail, MAX_META_BYTES, len(payload))
    if dtype.kind == "U" and shape == () and dtype.itemsize == len(payload):
        text: str | bytes
        try:
            text = str(np.frombuffer(payload, dtype=dtype)[0])
        except ValueError as error:
            raise ProblemError("malformed-body", "`meta` holds code points that do not exist.") from error
    elif dtype.str == "|u1" and shape == (len(payload),):
        text = bytes(payload)
    else:
        raise ProblemError("malformed-body", "`meta` must be one string or a row of bytes.")
    return read_json(text, "`meta`")
