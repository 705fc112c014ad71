"""Stores of answers: bounded in bytes and in time, one answer a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.stored_answer import BoundedStore, LocalKeyedAnswers, StoredAnswer

ANSWER = StoredAnswer(200, ((b"a", b"b"),), b"body")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40), st.floats(0, 3)), max_size=60))
def test_a_store_is_never_too_large_and_forgets_in_time(puts: list[tuple[int, int, float]]) -> None:
    clock = Clock()
    store: BoundedStore[int, int] = BoundedStore(200, 10.0, clock)
    last: dict[int, tuple[int, float]] = {}
    for number, (key, size, seconds) in enumerate(puts):
        clock.now += seconds
        if store.put(key, number, size):
            last[key] = number, clock.now
        else:
            assert size * 8 > 200
            last.pop(key, None)
        assert store.nbytes <= 200
        for known in range(10):
            if (found := store.get(known)) is not None:
                assert found == (last[known][0], clock.now - last[known][1])
                assert found[1] < 10


def test_the_oldest_use_goes_first() -> None:
    store: BoundedStore[str, int] = BoundedStore(80, 10.0)
    for number, key in enumerate("abcdefgh"):
        assert store.put(key, number, 10)
    store.get("a")
    store.put("i", 9, 10)
    assert store.get("a") is not None
    assert store.get("b") is None


async def test_a_key_goes_from_work_to_answer_to_oblivion() -> None:
    clock = Clock()
    answers = LocalKeyedAnswers(10_000, 60.0, clock)
    ticket = await answers.begin("k", b"1", 5.0)
    assert isinstance(ticket, int)
    assert await answers.begin("k", b"1", 5.0) == "in-progress"
    assert await answers.begin("k", b"2", 5.0) == "conflict"
    await answers.finish("k", ticket, ANSWER)
    assert await answers.begin("k", b"1", 5.0) == ANSWER
    assert await answers.begin("k", b"2", 5.0) == "conflict"
    clock.now = 60.0
    assert isinstance(await answers.begin("k", b"2", 5.0), int)


@pytest.mark.parametrize("late", [None, ANSWER])
async def test_work_that_is_lost_gives_its_key_free(late: StoredAnswer | None) -> None:
    clock = Clock()
    answers = LocalKeyedAnswers(10_000, 60.0, clock)
    lost = await answers.begin("k", b"1", 5.0)
    clock.now = 5.0
    ticket = await answers.begin("k", b"1", 5.0)
    assert isinstance(lost, int)
    assert isinstance(ticket, int)
    await answers.finish("k", lost, late)
    assert await answers.begin("k", b"1", 5.0) == "in-progress"
    await answers.finish("k", ticket, None)
    assert isinstance(await answers.begin("k", b"1", 5.0), int)
