"""npy: single arrays, read without pickle and without trust in a size."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ProblemError
from service.formats.result import EncodeMeta, EncodeResult
from service.formats.tensors import tensor_from

MAX_HEADER = 4096


def read_npy(data: bytes, name: str) -> NDArray[Any]:
    """Return one array of an allowed dtype.

    Args:
        data: the bytes of a `.npy` file, format 1.0 or 2.0.
        name: the array's name at the start of an error, in backticks.

    Raises:
        ProblemError: `malformed-body` when this is not a npy file, `invalid-tensor` when its array cannot be used.
    """
    shape, fortran, dtype, payload = read_header(data, name)
    array = tensor_from(payload, dtype.str, shape[::-1] if fortran else shape, name)
    return array.T if fortran else array


def read_header(data: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], memoryview]:
    """Return the claimed shape, Fortran order and dtype of an array, and the bytes that follow.

    Raises:
        ProblemError: `malformed-body`.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=MAX_HEADER)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file, max_header_size=MAX_HEADER)
        else:
            raise ValueError(f"The npy version {version} is not 1.0 or 2.0.")
    except Exception as error:  # the header is a Python literal, and its parser raises many kinds
        raise ProblemError("malformed-body", f"{name} must be an npy array of format 1.0 or 2.0.") from error
    return shape, fortran, dtype, memoryview(data)[file.tell() :]


def write_npy(array: NDArray[Any]) -> bytes:
    """Return the bytes of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def dump(result: EncodeResult) -> bytes:
    """Return the tokens of a result, without its metadata."""
    if result.tokens is None:
        raise ProblemError("not-acceptable", "An npy file holds tokens alone. Accept npz for latents.")
    return write_npy(result.tokens)


def load(data: bytes, max_bytes: int) -> EncodeResult:
    """Return tokens without metadata; an array never holds more than its bytes."""
    return EncodeResult(EncodeMeta(), tokens=read_npy(data, "`tokens`"))
