"""safetensors: tokens and latents, of every integer and float type that their tools write."""

from __future__ import annotations

from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from service.errors import ProblemError
from service.formats.json import read_json
from service.formats.result import EncodeResult, build
from service.formats.tensors import tensor_from

MAX_HEADER_BYTES = 65_536
MAX_TENSORS = 8
DTYPES = {
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
# Types that no other format takes are checked as these of the same width.
CARRIERS = {"<u8": "<i8", "|i1": "|u1", "<i2": "<u2", "bfloat16": "<u2"}


def dump(result: EncodeResult) -> bytes:
    """Return a body of one entry a tensor, with the metadata as a JSON text under `meta`."""
    return bytes(safetensors.numpy.save(result.tensors, metadata={"meta": result.meta.model_dump_json()}))


def load(data: bytes, max_bytes: int) -> EncodeResult:
    """Return the result in a body: header length (8 bytes, little-endian), JSON header, tensors without a gap.

    Raises:
        ProblemError: `malformed-body` or `invalid-tensor`.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ProblemError("malformed-body", f"The safetensors header may have {MAX_HEADER_BYTES} bytes.")
    header = read_json(data[8 : 8 + length], "The safetensors header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ProblemError("malformed-body", "The safetensors metadata must map strings to strings.")
    if len(header) > MAX_TENSORS:
        raise ProblemError("malformed-body", f"A safetensors body may hold {MAX_TENSORS} tensors, not {len(header)}.")
    if not all(isinstance(entry, dict) for entry in header.values()):
        raise ProblemError("malformed-body", "Each entry of the safetensors header must be an object.")
    if not all(isinstance(entry.get("dtype"), str) and entry["dtype"] in DTYPES for entry in header.values()):
        raise ProblemError("invalid-tensor", f"Each safetensors entry must have one of the dtypes {', '.join(DTYPES)}.")
    try:
        entries = safetensors.deserialize(data)
    except Exception as error:  # its own error, and those of the arguments' conversion
        raise ProblemError("malformed-body", "The entries do not fit the body. Send the whole file.") from error
    tensors = {name: _array(entry) for name, entry in entries}
    return build(tensors, read_json(metadata["meta"], "The metadata") if "meta" in metadata else {})


def _array(entry: dict[str, Any]) -> NDArray[Any]:
    dtype = DTYPES[entry["dtype"]]
    carrier = tensor_from(entry["data"], CARRIERS.get(dtype, dtype), entry["shape"], "A tensor")
    if dtype != "bfloat16":
        return carrier.view(dtype)
    return (carrier.astype(np.uint32) << 16).view(np.float32)  # a float32 begins with the bits of its bfloat16
