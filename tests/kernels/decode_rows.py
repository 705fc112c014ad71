"""Slots of every kind for both ends of a decode step."""

from __future__ import annotations

import torch

from kernels.decode_rows import HEADER
from kernels.decode_rows.reference import ReadArgs, WriteArgs

CLOCKS = (
    (0, 1, 4),  # about to draw its first token
    (-1, 2, 5),  # waits for its partner
    (0, 3, 5),  # a known token follows
    (4, 2, 6),  # in the middle
    (5, 2, 6),  # about to draw its last
    (6, 2, 6),  # finished
    (0, 0, 0),  # idle
)
SLOTS = (3, 6, 0, 6, 5, 1, 2, 4, 6)


def draw(channels: int = 40, dtype: torch.dtype = torch.float32) -> tuple[ReadArgs, WriteArgs]:
    torch.manual_seed(0)
    clocks = torch.tensor(CLOCKS, dtype=torch.int32)
    memory = torch.cat((clocks, torch.randint(50, (len(CLOCKS), 8), dtype=torch.int32)), 1)
    assert clocks.shape[1] == HEADER
    positions = torch.randint(9, (len(CLOCKS), 7), dtype=torch.int32)
    slots = torch.tensor(SLOTS, dtype=torch.int32)
    tables = torch.randn(50, channels).to(dtype), torch.randn(9, channels).to(dtype)
    counts = torch.full((2, len(SLOTS)), -1, dtype=torch.int32)
    return ReadArgs(memory, positions, slots, *tables, counts), WriteArgs(memory, slots, torch.randint(50, slots.shape))
