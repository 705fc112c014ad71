"""The operators that are proved and timed."""

from __future__ import annotations

from benchmarks.kernels import peg, temporal_attention, vq, window_attention
from benchmarks.kernels.operation import Operation

OPERATIONS: tuple[Operation, ...] = (
    peg.OPERATION,
    vq.OPERATION,
    window_attention.OPERATION,
    temporal_attention.OPERATION,
)
