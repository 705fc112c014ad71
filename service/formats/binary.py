"""Bare tensors: C-order bytes whose shape and dtype travel separately, by torch's names, as diffusers sends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.formats.tensors import tensor_from

BINARY_TENSOR = "tensor/binary"
DtypeName = Literal["float16", "bfloat16", "float32", "uint8"]
STORED_DTYPES: dict[DtypeName, str] = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "uint8": "|u1"}


def read_binary(data: bytes, dtype: DtypeName, shape: Sequence[int], name: str) -> NDArray[Any]:
    """Return the array in bytes; bfloat16, which numpy lacks, becomes float32.

    Args:
        data: little-endian, C order.
        dtype: name of its dtype.
        shape: its axes.
        name: of the tensor, at the start of an error.

    Raises:
        ProblemError: `invalid-tensor`.
    """
    array = tensor_from(data, STORED_DTYPES[dtype], list(shape), name)
    if dtype == "bfloat16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
