"""Products by cuBLASLt with an algorithm of the caller's choice, by ctypes on the library that torch has loaded.

nvmath-python binds the same calls. It would add four packages and may load another version than torch's, whose bits
differ. Names and numbers are those of `cublasLt.h`, the same since CUDA 11.
"""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p, sizeof
from functools import cache
from typing import Any

import torch
from torch import Tensor

DATA_TYPES = {torch.bfloat16: 14, torch.float16: 2}  # CUDA_R_16BF, CUDA_R_16F
CUDA_R_32F, COMPUTE_32F, EPILOGUE_GELU_BIAS = 0, 68, 36
DESC_TRANSA, DESC_EPILOGUE, DESC_BIAS_POINTER = 3, 7, 8
PREFERENCE_MAX_WORKSPACE_BYTES = 1
WORKSPACE_MAX_BYTES = 64 << 20
MAX_ALGORITHMS = 24  # more than the heuristic returned for any product of the networks


class CublasLtError(RuntimeError):
    """A call that the library refuses."""


class Algorithm(ctypes.Structure):
    """`cublasLtMatmulHeuristicResult_t`."""

    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace_bytes", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


@cache
def _library() -> Any:
    """Return the library that torch has loaded, and never another copy."""
    if torch.version.cuda is None:
        raise CublasLtError("This build of torch has no CUDA.")
    return ctypes.CDLL(f"libcublasLt.so.{torch.version.cuda.split('.')[0]}", mode=os.RTLD_NOW | os.RTLD_NOLOAD)


@cache
def _handle(device: torch.device) -> c_void_p:
    handle = c_void_p()
    with torch.cuda.device(device):
        _check(_library().cublasLtCreate(byref(handle)))
    return handle


def _check(status: int) -> None:
    if status:
        raise CublasLtError(f"The library cuBLASLt returned status {status}.")


class GeluProduct:
    """gelu(x W^T + b) of one shape, on one GPU, in bfloat16 or float16 with sums in float32.

    Args:
        device: a GPU.
        dtype: of all matrices and the bias.
        rows, columns, inner: M, N and K of x (M, K) and W (N, K).

    Raises:
        CublasLtError, AttributeError, OSError: the library is missing, lacks a function or refuses the shape.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, rows: int, columns: int, inner: int) -> None:
        self._library, self._handle = _library(), _handle(device)
        self._shape, self._dtype = (rows, columns), dtype
        self._lock = threading.Lock()  # the description holds the bias of the call
        self._description = c_void_p()
        _check(self._library.cublasLtMatmulDescCreate(byref(self._description), COMPUTE_32F, CUDA_R_32F))
        self._describe(DESC_TRANSA, c_int32(1))
        self._describe(DESC_EPILOGUE, c_int32(EPILOGUE_GELU_BIAS))
        # the library stores columns: a row of x or W is one of its columns, and the output is its (N, M)
        self._weight, self._x = self._layout(inner, columns), self._layout(inner, rows)
        self._out = self._layout(columns, rows)
        self._one, self._zero = c_float(1), c_float(0)

    def algorithms(self, bias: Tensor) -> list[Algorithm]:
        """Return the library's algorithms for this product in the order of its heuristic; torch takes the first.

        Args:
            bias: any of this product's, whose address the heuristic looks at.
        """
        preference, count = c_void_p(), c_int()
        results = (Algorithm * MAX_ALGORITHMS)()
        _check(self._library.cublasLtMatmulPreferenceCreate(byref(preference)))
        try:
            size = c_uint64(WORKSPACE_MAX_BYTES)
            kind = PREFERENCE_MAX_WORKSPACE_BYTES
            _check(
                self._library.cublasLtMatmulPreferenceSetAttribute(
                    preference, kind, byref(size), c_size_t(sizeof(size))
                )
            )
            self._describe(DESC_BIAS_POINTER, c_void_p(bias.data_ptr()))
            matrices = self._weight, self._x, self._out, self._out
            _check(
                self._library.cublasLtMatmulAlgoGetHeuristic(
                    self._handle, self._description, *matrices, preference, MAX_ALGORITHMS, results, byref(count)
                )
            )
        finally:
            self._library.cublasLtMatmulPreferenceDestroy(preference)
        return [result for result in results[: count.value] if result.state == 0]

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, algorithm: Algorithm) -> Tensor:
        """Enqueue the product on the current stream, which may be captured.

        Args:
            x, weight, bias: (M, K), (N, K) and (N,), contiguous, at addresses that the heuristic assumes.
            algorithm: of this product's.
        """
        out = torch.empty(self._shape, dtype=self._dtype, device=x.device)
        # of this call: a graph keeps its own, so that graphs on several streams share none
        workspace = torch.empty(algorithm.workspace_bytes, dtype=torch.uint8, device=x.device)
        stream = torch.cuda.current_stream(x.device).cuda_stream
        pointers = [c_void_p(tensor.data_ptr()) for tensor in (weight, x, out, workspace)]
        with self._lock, torch.cuda.device_of(x):
            self._describe(DESC_BIAS_POINTER, c_void_p(bias.data_ptr()))
            _check(
                self._library.cublasLtMatmul(
                    self._handle, self._description, byref(self._one), pointers[0], self._weight, pointers[1], self._x,
                    byref(self._zero), pointers[2], self._out, pointers[2], self._out, byref(algorithm),
                    pointers[3], c_size_t(algorithm.workspace_bytes), c_void_p(stream),
                )
            )  # fmt: skip
        return out

    def _describe(self, attribute: int, value: Any) -> None:
        size = c_size_t(sizeof(value))
        _check(self._library.cublasLtMatmulDescSetAttribute(self._description, attribute, byref(value), size))

    def _layout(self, rows: int, columns: int) -> c_void_p:
        layout, kind = c_void_p(), DATA_TYPES[self._dtype]
        sizes = c_uint64(rows), c_uint64(columns), c_int64(rows)
        _check(self._library.cublasLtMatrixLayoutCreate(byref(layout), kind, *sizes))
        return layout
