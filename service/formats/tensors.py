"""Envelopes of tensors, whose every claim is checked before numpy sees the bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ProblemError

DTYPES = ("|u1", "<u2", "<u4", "<i4", "<i8", "<f2", "<f4")
MAX_RANK = 5
MAX_AXIS = 2**31


def pack_tensor(array: NDArray[Any]) -> dict[str, Any]:
    """Return the msgpack envelope of an array.

    Args:
        array: any shape up to rank 5, of a dtype in `DTYPES`.
    """
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in DTYPES:
        raise ValueError(f"An array of dtype {array.dtype} cannot be sent; convert it to one of {', '.join(DTYPES)}.")
    return {"dtype": little.dtype.str, "shape": list(array.shape), "data": little.tobytes()}


def unpack_tensor(envelope: object, name: str) -> NDArray[Any]:
    """Return the array in an envelope, read-only and without a copy.

    Args:
        envelope: `{"dtype", "shape", "data": bytes}` as it was received.
        name: the tensor's name at the start of an error, such as `tokens`, in backticks.

    Raises:
        ProblemError: `invalid-tensor` when the parts do not agree.
    """
    if not isinstance(envelope, dict) or set(envelope) != {"dtype", "shape", "data"}:
        raise ProblemError("invalid-tensor", f"{name} must be a map of exactly `dtype`, `shape` and `data`.")
    data = envelope["data"]
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ProblemError("invalid-tensor", f"The data of {name} must be a byte string.")
    return tensor_from(data, envelope["dtype"], envelope["shape"], name)


def tensor_from(data: bytes | bytearray | memoryview, dtype: object, shape: object, name: str) -> NDArray[Any]:
    """Return little-endian C-order bytes as an array, after every claim about them is checked.

    Args:
        data: the bytes.
        dtype, shape: the claims, of any type.
        name: the tensor's name at the start of an error, such as `tokens`, in backticks.

    Raises:
        ProblemError: `invalid-tensor`.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ProblemError("invalid-tensor", f"{name} must have one of the dtypes {', '.join(DTYPES)}.")
    if not isinstance(shape, list | tuple) or not 1 <= len(shape) <= MAX_RANK:
        raise ProblemError("invalid-tensor", f"{name} must have a shape of 1 to {MAX_RANK} integers.")
    if not all(type(axis) is int and 0 <= axis < MAX_AXIS for axis in shape):
        raise ProblemError("invalid-tensor", f"{name} must have a shape of integers from 0 to {MAX_AXIS - 1}.")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    actual = memoryview(data).nbytes
    if expected != actual:
        raise ProblemError("invalid-tensor", f"{name} needs {expected} bytes by its dtype and shape, not {actual}.")
    if expected == 0:
        raise ProblemError("invalid-tensor", f"{name} has an axis of length 0; each needs at least 1.")
    return np.frombuffer(data, dtype=dtype).reshape(shape)
