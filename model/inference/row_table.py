"""Rows of a decode step: the slots that it advances and their sampling parameters, sent to the device in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.generator.sampling import SamplingParams


class Row(NamedTuple):
    """One row of a step.

    Args:
        slot: that it advances.
        cached: its slot of the cache; any for a row that advances nothing.
        conditional, unconditional: rows whose logits give its token; a pair shares both.
        params: of its token.
    """

    slot: int
    cached: int
    conditional: int
    unconditional: int
    params: SamplingParams


class Columns(NamedTuple):
    """The rows on the device, each of shape (R,): int64 seeds, then int32, then float32."""

    seeds: Tensor
    slots: Tensor
    cached: Tensor
    conditional: Tensor
    unconditional: Tensor
    top_k: Tensor
    temperature: Tensor
    top_p: Tensor
    guidance: Tensor
    growth: Tensor


# the widest first, which keeps every column aligned
KINDS = np.int64, *[np.int32] * 5, *[np.float32] * 4
ROW_BYTES = sum(np.dtype(kind).itemsize for kind in KINDS)


class RowTable:
    """Columns of rows at addresses that never change.

    Args:
        rows: capacity.
        idle: slot of the rows that advance nothing.
        device: of the columns.
    """

    def __init__(self, rows: int, idle: int, device: torch.device) -> None:
        self._rows = rows
        self._idle = Row(idle, 0, 0, 0, SamplingParams(temperature=0))
        self._buffer = torch.zeros(rows * ROW_BYTES, dtype=torch.uint8, device=device)
        parts = self._buffer.split([rows * np.dtype(kind).itemsize for kind in KINDS])
        views = (part.view(getattr(torch, np.dtype(kind).name)) for part, kind in zip(parts, KINDS, strict=True))
        self._columns = Columns(*views)
        self.fill([])

    def fill(self, rows: Sequence[Row]) -> None:
        """Put these rows first; those after them advance nothing."""
        padded = [*rows, *[self._idle] * (self._rows - len(rows))]
        values = zip(
            *(
                (
                    row.params.seed,
                    row.slot,
                    row.cached,
                    row.conditional,
                    row.unconditional,
                    row.params.top_k,
                    row.params.temperature,
                    row.params.top_p,
                    row.params.guidance,
                    row.params.guidance_growth,
                )
                for row in padded
            ),
            strict=True,
        )
        packed = [np.array(column, kind).view(np.uint8) for column, kind in zip(values, KINDS, strict=True)]
        send(torch.from_numpy(np.concatenate(packed)), self._buffer)

    def first(self, rows: int) -> Columns:
        """Return the first rows, as views."""
        return Columns(*(column[:rows] for column in self._columns))


def send(values: Tensor, target: Tensor) -> None:
    """Copy from the host in the order of the current stream, without waiting for the copy."""
    if target.is_cuda:
        target.copy_(values.pin_memory(), non_blocking=True)
    else:
        target.copy_(values)
