"""Both ends of a decode step: the definition, and the kernels compiled ahead of time."""

from __future__ import annotations

import torch
from ahead import compiled_for, on_targets, spill_bytes
from decode_rows import CLOCKS, SLOTS, draw

from kernels.decode_rows import HEADER, launch, read_rows, write_rows


def test_rows_read_their_newest_token_and_count():
    args, _ = draw()
    found = read_rows(*args)
    for row, slot in enumerate(SLOTS):
        newest, known, end = CLOCKS[slot]
        place = max(newest, 0)
        token, position = args.memory[slot, HEADER + place], args.positions[slot, place]
        assert torch.equal(found[row], args.token_table[token] + args.position_table[position])
        assert args.counts[:, row].tolist() == [place + 1 if newest < end else 0, max(0, newest + 1 - known)]


def test_live_rows_store_what_was_drawn_unless_it_is_known():
    _, args = draw()
    expected = args.memory.clone()
    assert write_rows(*args).tolist() == [5, 0, 1, 0, 6, 0, 1, 6, 0]
    expected[[0, 1, 2, 3, 4], 0] += 1
    drawn = dict(zip(SLOTS, args.drawn.int(), strict=True))
    for slot, place in ((0, 1), (3, 5), (4, 6)):
        expected[slot, HEADER + place] = drawn[slot]
    assert torch.equal(args.memory, expected)


@on_targets
def test_kernels_compile_ahead(target, dtype):
    read, write = draw(1536, dtype)
    with compiled_for(target) as compiled:
        launch.read_rows(read)
        launch.write_rows(write)
    assert {spill_bytes(kernel) for kernel in compiled} == {0}
