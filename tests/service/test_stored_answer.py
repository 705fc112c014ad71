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
    store: BoundedStore[str, int] = BoundedStore(80, 10.0, Clock())
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


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(1, 25)), max_size=80))
def test_nobody_loses_answers_to_one_who_holds_more(puts: list[tuple[int, int, int]]) -> None:
    store: BoundedStore[tuple[int, int], int] = BoundedStore(200, 10.0, Clock())
    held: dict[tuple[int, int], int] = {}
    for owner, key, size in puts:
        held.pop((owner, key), None)
        stored = store.put((owner, key), size, size, owner)
        before = {name: sum(bytes_ for (one, _), bytes_ in held.items() if one == name) for name in range(3)}
        if stored:
            held[owner, key] = size
            before[owner] += size
        gone = {name for name in held if store.get(name) is None}
        assert all(before[name[0]] >= 200 / 3 for name in gone), "only who holds a third or more loses any"
        for name in gone:
            del held[name]
        assert store.nbytes == sum(held.values())


async def test_a_flood_of_one_caller_leaves_the_keys_of_others() -> None:
    answers = LocalKeyedAnswers(100 * ANSWER.nbytes, 60.0, Clock())
    for number in range(300):
        owner = "quiet" if number == 0 else "loud"
        ticket = await answers.begin(f"{owner} {number}", b"", 5.0)
        assert isinstance(ticket, int)
        await answers.finish(f"{owner} {number}", ticket, ANSWER)
    assert await answers.begin("quiet 0", b"", 5.0) == ANSWER


async def test_work_that_is_renewed_keeps_its_key() -> None:
    clock = Clock()
    answers = LocalKeyedAnswers(10_000, 60.0, clock)
    ticket = await answers.begin("k", b"1", 5.0)
    assert isinstance(ticket, int)
    for clock.now in (4.0, 8.0, 12.0):
        await answers.renew("k", ticket, 5.0)
    assert await answers.begin("k", b"1", 5.0) == "in-progress"
    clock.now = 17.0
    other = await answers.begin("k", b"1", 5.0)
    assert isinstance(other, int)
    await answers.renew("k", ticket, 60.0)
    clock.now = 22.0
    assert isinstance(await answers.begin("k", b"1", 5.0), int), "a lost one renews nothing"
