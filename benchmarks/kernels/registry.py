"""The operators that are proved and timed."""

from __future__ import annotations

from benchmarks.kernels import peg, vq
from benchmarks.kernels.operation import Operation

OPERATIONS: tuple[Operation, ...] = (peg.OPERATION, vq.OPERATION)
