"""The definition of both ends of a decode step.

A slot's memory is a row of int32: its clock, then the vocabulary ids of its sequence. The clock holds `newest`, the
index of the newest token, which is below zero while the row waits for its partner; `known`, the number of tokens that
are given; `end`, the index of the last token. A row is live while newest < end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HEADER = 3  # elements of a clock


class ReadArgs(NamedTuple):
    """The arguments of `read_rows`.

    Args:
        memory (Tensor): int32, shape (slots, HEADER + S), clocks and ids.
        positions (Tensor): int32, shape (slots, >= S - 1), the learned position of each token.
        slots (Tensor): int32, shape (R,).
        token_table, position_table (Tensor): shapes (V, C) and (P, C), any float dtype.
        counts (Tensor): int32, shape (2, R), written: tokens of each row with the newest, 0 of a row that is not live;
            and the number of tokens drawn so far, 0 while known ones are fed.
    """

    memory: Tensor
    positions: Tensor
    slots: Tensor
    token_table: Tensor
    position_table: Tensor
    counts: Tensor


class WriteArgs(NamedTuple):
    """The arguments of `write_rows`.

    Args:
        memory (Tensor): int32, shape (slots, HEADER + S), clocks and ids, written.
        slots (Tensor): int32, shape (R,); live rows have different slots.
        drawn (Tensor): int64, shape (R,), vocabulary ids.
    """

    memory: Tensor
    slots: Tensor
    drawn: Tensor


def read_rows(args: ReadArgs) -> Tensor:
    """Return the embedding of each row's newest token plus that of its position, and fill the counts.

    Returns:
        Tensor: shape (R, C), dtype of the tables.
    """
    memory, positions, slots, token_table, position_table, counts = args
    rows = slots.long()
    newest, known, end = memory[rows, :HEADER].unbind(1)
    place = newest.clamp_min(0).long()
    counts[0] = torch.where(newest < end, place + 1, 0)
    counts[1] = (newest + 1 - known).clamp_min(0)
    tokens = F.embedding(memory[rows, HEADER + place], token_table)
    return tokens + F.embedding(positions[rows, place], position_table)


def write_rows(args: WriteArgs) -> Tensor:
    """Advance the clock of live rows, and store the drawn id where no token is known.

    Returns:
        Tensor: int32, shape (R,), the clocks' `newest` after that.
    """
    memory, slots, drawn = args
    rows = slots.long()
    newest, known, end = memory[rows, :HEADER].unbind(1)
    live = newest < end
    following = HEADER + (newest + 1).clamp_min(0).long()
    memory[rows, following] = torch.where(live & (newest + 1 >= known), drawn.int(), memory[rows, following])
    advanced = newest + live.int()
    memory[rows, 0] = advanced
    return advanced
