"""The batcher against every interleaving that hypothesis finds, then its single rules by example."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import ProblemError
from service.scheduling.batcher import Batcher, Item, Key
from service.types import TokenizerKey


class Step(NamedTuple):
    """A key of a generator's: no pixels in it."""

    model: str
    op: str = "generate"


KEYS: list[Key] = [
    TokenizerKey("m", "encode", "pixels", (1, 64, 64)),
    TokenizerKey("m", "encode", "pixels", (17, 64, 64)),
    TokenizerKey("m", "decode", "tokens", (1, 64, 64)),
    Step("n"),
]


class BatcherMachine(RuleBasedStateMachine):
    """Submits, cancels, expires and runs at random; every promise of the batcher is checked on the way."""

    @initialize(max_tokens=st.integers(1, 40), max_requests=st.integers(1, 5), queue=st.integers(1, 200))
    def start(self, max_tokens: int, max_requests: int, queue: int) -> None:
        self.batcher = Batcher(max_tokens, max_requests, queue)
        self.now = 0.0
        self.next_id = 0
        self.waiting: dict[int, Item] = {}  # admitted, unanswered, in order of arrival
        self.running: dict[int, Item] = {}
        self.patience: dict[int, int] = {}  # batches of others that an item may still see before it starts

    @rule(key=st.sampled_from(KEYS), cost=st.integers(1, 9) | st.integers(10, 100), patience=st.floats(0.5, 50))
    def submit(self, key: Key, cost: int, patience: float) -> None:
        item = Item(self.next_id, key, cost, self.now + patience)
        self.next_id += 1
        tokens = sum(waiting.cost for waiting in self.waiting.values())
        fits = not self.waiting or tokens + cost <= self.batcher.max_queue_tokens
        if not fits:
            with pytest.raises(ProblemError) as refused:
                self.batcher.submit(item)
            assert refused.value.code == "overloaded"
            assert 1 <= (refused.value.retry_after_seconds or 0) <= 60
            return
        self.batcher.submit(item)
        self.waiting[item.id] = item
        ahead = [other for other in self.waiting.values() if other.key == key]
        visits = sum(math.ceil(other.cost / self.batcher.max_tokens) for other in ahead)
        self.patience[item.id] = visits * len(KEYS)

    @rule(key=st.sampled_from(KEYS), costs=st.lists(st.integers(1, 9), min_size=2, max_size=8))
    def submit_crowd(self, key: Key, costs: list[int]) -> None:
        for cost in costs:
            self.submit(key, cost, 50.0)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item_id = data.draw(st.sampled_from(list(self.waiting)))
        assert self.batcher.cancel(item_id)
        del self.waiting[item_id]
        assert not self.batcher.cancel(item_id)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cancel_running(self, data: st.DataObject) -> None:
        assert not self.batcher.cancel(data.draw(st.sampled_from(list(self.running))))

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        late = {item.id for item in self.batcher.expire(self.now)}
        assert late == {item.id for item in self.waiting.values() if item.deadline <= self.now}
        for item_id in late:
            del self.waiting[item_id]

    @precondition(lambda self: not self.running)
    @rule(now_expired=st.booleans())
    def run(self, now_expired: bool) -> None:
        if now_expired:
            self.expire()
        batch = self.batcher.next_batch(self.now)
        assert (batch is None) == (not self.waiting), "work conserving: an idle engine never leaves items waiting"
        if batch is None:
            return
        assert {item.key for item in batch.items} == {batch.key}
        assert batch.cost == sum(item.cost for item in batch.items)
        assert len(batch.items) <= self.batcher.max_requests
        assert batch.cost <= self.batcher.budget(batch.key) or len(batch.items) == 1
        same_key = [item.id for item in self.waiting.values() if item.key == batch.key]
        ids = [item.id for item in batch.items]
        assert ids == same_key[: len(ids)], "first in, first out within a key; the misfit stays at the front"
        if batch.stop_reason == "drained":
            assert len(ids) == len(same_key)
        elif batch.stop_reason == "count":
            assert len(ids) == self.batcher.max_requests
        else:
            misfit = self.waiting[same_key[len(ids)]]
            assert batch.cost + misfit.cost > self.batcher.budget(batch.key)
        for item_id in ids:
            self.running[item_id] = self.waiting.pop(item_id)
        for item_id in self.waiting:
            self.patience[item_id] -= 1
            assert self.patience[item_id] > 0, "an item waits longer than the queue ahead of it explains"

    @precondition(lambda self: self.running)
    @rule(seconds=st.floats(0, 5), out_of_memory=st.booleans())
    def complete(self, seconds: float, out_of_memory: bool) -> None:
        self.now += seconds
        batch = self.batcher.running
        assert batch is not None
        assert {item.id for item in batch.items} == set(self.running), "every item is in exactly one batch"
        self.batcher.complete(self.now)
        if out_of_memory and len(batch.items) > 1:
            self.batcher.shrink(batch.key, batch.cost)
            assert self.batcher.budget(batch.key) <= batch.cost // 2
        self.running.clear()

    @invariant()
    def counts(self) -> None:
        if hasattr(self, "batcher"):
            assert self.batcher.queued_requests == len(self.waiting)
            assert self.batcher.queued_tokens == sum(item.cost for item in self.waiting.values())
            assert self.batcher.budget(KEYS[0]) <= self.batcher.max_tokens

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        if self.running:
            self.complete(1.0, False)
        while self.waiting:
            self.run(now_expired=False)
            self.complete(1.0, False)
        assert self.batcher.next_batch(self.now) is None


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def item(number: int, key: Key, cost: int, deadline: float = 100.0) -> Item:
    return Item(number, key, cost, deadline)


def drain(batcher: Batcher) -> list[list[int]]:
    batches = []
    while (batch := batcher.next_batch(0.0)) is not None:
        batches.append([item.id for item in batch.items])
        batcher.complete(1.0)
    return batches


def test_a_lone_item_runs_at_once() -> None:
    batcher = Batcher(100, 8, 1000)
    batcher.submit(item(0, KEYS[0], 1))
    batch = batcher.next_batch(0.0)
    assert batch is not None
    assert [member.id for member in batch.items] == [0]
    with pytest.raises(RuntimeError, match="has not completed"):
        batcher.next_batch(0.0)


def test_images_do_not_starve_a_clip_nor_the_clip_the_images() -> None:
    batcher = Batcher(10, 8, 1000)
    for number in range(6):
        batcher.submit(item(number, KEYS[0], 10))
    batcher.submit(item(6, KEYS[1], 25))  # three visits' worth of credit
    assert drain(batcher) == [[0], [1], [2], [6], [3], [4], [5]]


def test_a_misfit_stays_at_the_front() -> None:
    batcher = Batcher(10, 8, 1000)
    for number, cost in enumerate([4, 4, 4, 1]):
        batcher.submit(item(number, KEYS[0], cost))
    assert drain(batcher) == [[0, 1], [2, 3]]


def test_a_turn_that_is_not_used_up_is_not_saved_for_later() -> None:
    batcher = Batcher(10, 1, 1000)
    for number, cost in enumerate([1, 1, 1, 40]):
        batcher.submit(item(number, KEYS[0], cost))
    for number in range(4, 10):
        batcher.submit(item(number, KEYS[1], 10))
    assert drain(batcher) == [[0], [4], [1], [5], [2], [6], [7], [8], [9], [3]]


def test_the_retry_time_is_the_time_to_drain() -> None:
    batcher = Batcher(10, 8, 100)
    batcher.submit(item(0, KEYS[0], 10))
    batcher.next_batch(0.0)
    batcher.complete(2.0)  # 5 tokens a second
    for number in range(1, 11):
        batcher.submit(item(number, KEYS[0], 10))
    with pytest.raises(ProblemError) as refused:
        batcher.submit(item(11, KEYS[0], 1))
    assert refused.value.retry_after_seconds == pytest.approx(20.0)
    assert (refused.value.limit, refused.value.actual) == (100, 101)


def test_one_odd_batch_moves_the_retry_time_by_a_fifth_of_the_rate() -> None:
    batcher = Batcher(10, 8, 1000)
    now = 0.0
    for number, seconds in enumerate([2.0, 2.0, 0.1]):  # 5 tokens a second, twice, and 100 once
        batcher.submit(item(number, KEYS[0], 10))
        batcher.next_batch(now)
        now += seconds
        batcher.complete(now)
    for number in range(3, 27):
        batcher.submit(item(number, KEYS[0], 10))
    assert batcher.retry_after() == pytest.approx(240 / 24)


def test_a_halved_budget_recovers() -> None:
    batcher = Batcher(64, 100, 10_000)
    batcher.shrink(KEYS[0], 64)
    assert batcher.budget(KEYS[0]) == 32
    for number in range(640):
        batcher.submit(item(number, KEYS[0], 4))
    sizes = [len(ids) for ids in drain(batcher)]
    assert sizes[0] == 8
    assert max(sizes) == 16
    assert sizes[:9] == sorted(sizes[:9])


@pytest.mark.parametrize("bounds", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_bounds_must_be_positive(bounds: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Batcher(*bounds)
