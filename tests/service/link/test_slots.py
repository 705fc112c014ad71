"""The slots of an arena never overlap, are never lost, and merge when a large one is asked for."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.link.slots import CLASS_BYTES, Slot, SlotTable

ARENA_BYTES = CLASS_BYTES[3] + 5 * CLASS_BYTES[0]


class Slots(RuleBasedStateMachine):
    """Slots taken and given back in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(ARENA_BYTES)
        self.taken: list[Slot] = []

    @rule(size=st.one_of(st.integers(0, ARENA_BYTES), st.integers(0, 2 * CLASS_BYTES[1])))
    def take(self, size: int) -> None:
        slot = self.table.take(size)
        if slot is None:
            return
        assert slot.size >= size
        assert slot.offset % slot.size == 0
        assert slot.offset + slot.size <= ARENA_BYTES
        for other in self.taken:
            assert slot.offset + slot.size <= other.offset or other.offset + other.size <= slot.offset
        self.taken.append(slot)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.table.give_back(self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1))))

    @invariant()
    def every_byte_is_free_or_taken(self) -> None:
        assert self.table.free_bytes + sum(slot.size for slot in self.taken) == ARENA_BYTES
        assert self.table.taken_slots == len(self.taken)

    def teardown(self) -> None:
        for slot in self.taken:
            self.table.give_back(slot)
        assert self.table.take(self.table.largest) is not None
        assert sum(self.table.take(1) is not None for _ in range(100)) == 5


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_slot_is_given_back_once() -> None:
    table = SlotTable(ARENA_BYTES)
    slot = table.take(1)
    assert slot is not None
    table.give_back(slot)
    with pytest.raises(ValueError, match="not taken"):
        table.give_back(slot)


def test_a_full_arena_gives_nothing() -> None:
    table = SlotTable(CLASS_BYTES[0])
    assert table.take(CLASS_BYTES[0] + 1) is None
    assert table.take(1) is not None
    assert table.take(1) is None


@pytest.mark.parametrize("size", [0, CLASS_BYTES[0] + 1])
def test_an_arena_has_whole_slots(size: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        SlotTable(size)
