"""The batcher against every interleaving that hypothesis finds, then its single rules by example."""

from __future__ import annotations

import math
from collections import Counter, deque

import pytest
from batcher_items import KEYS, item, measured
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import ProblemError
from service.flow import Flow
from service.scheduling.batcher import MAX_RUNNING, MAX_TIMES_FREE, OLDEST_EVERY, Batch, Batcher
from service.scheduling.item import Item, Key

FLOWS = [Flow(caller, priority) for caller in ("a", "b", "c") for priority in ("interactive", "bulk")]


class BatcherMachine(RuleBasedStateMachine):
    """Submits, cancels, expires and runs at random; every promise of the batcher is checked on the way."""

    @initialize(
        max_tokens=st.integers(1, 40),
        max_requests=st.integers(1, 5),
        queue=st.integers(1, 200),
        seconds=st.floats(0.1, 20) | st.just(math.inf),
    )
    def start(self, max_tokens: int, max_requests: int, queue: int, seconds: float) -> None:
        self.batcher = Batcher(max_tokens, max_requests, queue, seconds)
        self.now = 0.0
        self.answers: Counter[int] = Counter()
        self.next_id = 0
        self.waiting: dict[int, Item] = {}  # admitted, unanswered, in order of arrival
        self.running: deque[tuple[Item, ...]] = deque()
        self.largest = 0  # cost of a group
        self.bounds: dict[int, int] = {}  # batches that an item may still see before it starts

    @rule(
        key=st.sampled_from(KEYS),
        cost=st.integers(1, 9) | st.integers(10, 100),
        patience=st.floats(0.5, 50),
        flow=st.sampled_from(FLOWS),
    )
    def submit(self, key: Key, cost: int, patience: float, flow: Flow) -> None:
        self.submit_group(key, cost, 1, patience, flow)

    @rule(
        key=st.sampled_from(KEYS),
        cost=st.integers(1, 9),
        count=st.integers(2, 8),
        patience=st.floats(0.5, 50),
        flow=st.sampled_from(FLOWS),
    )
    def submit_group(self, key: Key, cost: int, count: int, patience: float, flow: Flow) -> None:
        first, self.next_id = self.next_id, self.next_id + count
        numbers, deadline = range(first, self.next_id), self.now + patience
        items = [Item(number, key, cost, deadline, None, flow, first) for number in numbers]
        wait = self.batcher.wait(items[0], self.now)
        in_time = patience - self.batcher.batch_seconds(items[0], count)
        longest = min(in_time, self.batcher.max_queue_seconds) if self.waiting else patience
        if not self.fits(items) or (wait is not None and wait > longest):
            assert self.waiting or self.running, "an idle batcher refuses nobody"
            with pytest.raises(ProblemError) as refused:
                self.batcher.submit(items, self.now)
            assert refused.value.code == "overloaded"
            assert 0 < (refused.value.retry_after_seconds or 0) <= 60
            if wait is not None and 0.1 <= wait <= 60:
                assert 0.5 <= (refused.value.retry_after_seconds or 0) / wait <= 2
            self.answers.update(item.id for item in items)
            return
        self.batcher.submit(items, self.now)
        for member in items:
            self.bounds[member.id] = OLDEST_EVERY * (len(self.waiting) + 1)
            self.waiting[member.id] = member
        self.largest = max(self.largest, cost * count)

    def fits(self, items: list[Item]) -> bool:
        """An empty queue takes anything; else there must be space, some of it for other callers."""
        if not self.waiting:
            return True
        cost = sum(item.cost for item in items)
        free = self.batcher.max_queue_tokens - sum(other.cost for other in self.waiting.values())
        held = sum(other.cost for other in self.waiting.values() if other.caller == items[0].caller)
        return cost <= free and held + cost <= MAX_TIMES_FREE * free

    @rule(
        key=st.sampled_from(KEYS),
        costs=st.lists(st.integers(1, 9), min_size=2, max_size=8),
        flow=st.sampled_from(FLOWS),
    )
    def submit_crowd(self, key: Key, costs: list[int], flow: Flow) -> None:
        for cost in costs:
            self.submit(key, cost, 50.0, flow)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item_id = data.draw(st.sampled_from(list(self.waiting)))
        assert self.batcher.cancel(item_id)
        del self.waiting[item_id]
        self.answers[item_id] += 1
        assert not self.batcher.cancel(item_id)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cancel_running(self, data: st.DataObject) -> None:
        assert not self.batcher.cancel(data.draw(st.sampled_from(self.running[0])).id)

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        late = {item.id for item in self.batcher.expire(self.now)}
        assert late == {item.id for item in self.waiting.values() if item.deadline <= self.now}
        for item_id in late:
            del self.waiting[item_id]
            self.answers[item_id] += 1

    @rule(now_expired=st.booleans())
    def run(self, now_expired: bool) -> None:
        if now_expired:
            self.expire()
        batch = self.batcher.next_batch(self.now)
        if batch is None:
            assert self.running or not self.waiting, "work conserving: an idle engine never leaves items waiting"
            return
        self.check(batch)
        self.running.append(tuple(self.waiting.pop(item.id) for item in batch.items))
        assert len(self.running) <= MAX_RUNNING
        for item_id in self.waiting:
            self.bounds[item_id] -= 1
            assert self.bounds[item_id] > 0, "an item waits for longer than the items before it explain"

    def check(self, batch: Batch) -> None:
        """Compare a batch with what waited before it."""
        assert {item.key for item in batch.items} == {batch.key}
        assert batch.cost == sum(item.cost for item in batch.items)
        assert len(batch.items) <= self.batcher.max_requests
        assert batch.cost <= self.batcher.budget(batch.key) or len(batch.items) == 1
        of_key = [item for item in self.waiting.values() if item.key == batch.key]
        for flow in FLOWS:
            taken = [item.id for item in batch.items if item.flow == flow]
            waited = [item.id for item in of_key if item.flow == flow]
            assert sorted(taken) == waited[: len(taken)], "first in, first out within a key and a flow"
        left = [item for item in of_key if item not in batch.items]
        if batch.stop_reason == "drained":
            assert not left
        elif batch.stop_reason == "count":
            assert len(batch.items) == self.batcher.max_requests
        else:
            assert any(batch.cost + item.cost > self.batcher.budget(batch.key) for item in left)
        cut = {item.group for item in batch.items} & {item.group for item in left}
        head, last = batch.items[0], batch.items[-1]
        assert cut <= {head.group, last.group}, "a batch takes whole groups while it has space"
        assert head.group not in cut - {last.group} or head.flow.priority == "bulk", "interactive items go between"
        groups = [item.group for item in batch.items[1:]]
        assert groups == [group for group in dict.fromkeys(groups) for _ in range(groups.count(group))], "one by one"
        if any(item.flow.priority == "bulk" for item in batch.items[1:]):
            assert all(item.flow.priority == "bulk" for item in left), "bulk items take what others leave"

    @precondition(lambda self: self.running)
    @rule(seconds=st.floats(0, 5) | st.floats(0, 0.01), out_of_memory=st.booleans())
    def complete(self, seconds: float, out_of_memory: bool) -> None:
        self.now += seconds
        batch = self.batcher.running[0]
        assert batch.items == self.running.popleft(), "batches end in the order in which they start"
        assert 0 <= self.batcher.complete(self.now) <= self.now - batch.started
        self.answers.update(item.id for item in batch.items)
        if out_of_memory and len(batch.items) > 1:
            self.batcher.shrink(batch.key, batch.cost)
            assert self.batcher.budget(batch.key) <= batch.cost // 2

    @invariant()
    def counts(self) -> None:
        if hasattr(self, "batcher"):
            assert self.batcher.queued_requests == len(self.waiting)
            assert self.batcher.queued_tokens == sum(item.cost for item in self.waiting.values())
            assert self.batcher.queued_tokens <= max(self.batcher.max_queue_tokens, self.largest)
            assert self.batcher.budget(KEYS[0]) <= self.batcher.max_tokens

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        while self.running:
            self.complete(1.0, False)
        while self.waiting:
            self.run(now_expired=False)
            self.complete(1.0, False)
        assert self.batcher.next_batch(self.now) is None
        assert self.answers == dict.fromkeys(range(self.next_id), 1), "each item is answered exactly once"


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def drain(batcher: Batcher, most: int = 1000) -> list[list[int]]:
    batches: list[list[int]] = []
    while len(batches) < most and (batch := batcher.next_batch(0.0)) is not None:
        batches.append([item.id for item in batch.items])
        batcher.complete(1.0)
    return batches


def test_a_lone_item_runs_at_once() -> None:
    batcher = Batcher(100, 8, 1000)
    batcher.submit([item(0, KEYS[0], 1)], 0.0)
    batch = batcher.next_batch(0.0)
    assert batch is not None
    assert [member.id for member in batch.items] == [0]
    assert batcher.next_batch(0.0) is None
    batcher.complete(1.0)
    with pytest.raises(RuntimeError, match="No batch is running"):
        batcher.complete(1.0)


def test_a_short_batch_has_the_next_one_behind_it_and_a_long_one_has_not() -> None:
    for seconds, count, cost, started in ((0.01, 4, 10, 2), (0.03, 4, 10, 1), (0.001, 18, 1, 2)):
        batcher = measured((10, seconds))
        for number in range(count):
            batcher.submit([item(number, KEYS[0], cost)], 0.0)
        assert sum(batcher.next_batch(0.0) is not None for _ in range(4)) == started


def test_a_batch_that_may_grow_waits_for_the_one_that_runs() -> None:
    batcher = measured((10, 0.001))
    batcher.submit([item(0, KEYS[0], 5)], 0.0)
    assert batcher.next_batch(0.0) is not None
    for number in range(1, 8):
        batcher.submit([item(number, KEYS[number % 2], 1)], 0.0)
        assert batcher.next_batch(0.0) is None
    batcher.submit([item(8, KEYS[0], 3)], 0.0)
    assert batcher.next_batch(0.0) is not None, "enough waits, though not of one key"


def test_images_do_not_starve_a_clip_nor_the_clip_the_images() -> None:
    batcher = Batcher(10, 8, 1000)
    for number in range(6):
        batcher.submit([item(number, KEYS[0], 10)], 0.0)
    batcher.submit([item(6, KEYS[1], 25)], 0.0)
    batcher.submit([item(7, KEYS[1], 25)], 0.0)  # when the images have had as much as the clip before
    assert drain(batcher) == [[0], [6], [1], [2], [7], [3], [4], [5]]


def test_a_misfit_stays_at_the_front() -> None:
    batcher = Batcher(10, 8, 1000)
    for number, cost in enumerate([4, 4, 4, 1]):
        batcher.submit([item(number, KEYS[0], cost)], 0.0)
    assert drain(batcher) == [[0, 1], [2, 3]]


def test_callers_share_by_cost_and_not_by_number_or_kind_of_requests() -> None:
    batcher = Batcher(10, 1, 1000)
    for number, cost in enumerate([10, 10, 10, 10]):
        batcher.submit([item(number, KEYS[number % 2], cost, caller="greedy")], 0.0)
    for number in range(10, 15):
        batcher.submit([item(number, KEYS[2], 5, caller="modest")], 0.0)
    order = [ids[0] for ids in drain(batcher)]
    assert order[:7] == [0, 10, 11, 1, 12, 13, 2]


def test_a_caller_that_was_idle_starts_level_with_the_others() -> None:
    batcher = Batcher(10, 1, 1000)
    for number in range(10):
        batcher.submit([item(number, KEYS[0], 10, caller="busy")], 0.0)
    before = drain(batcher, 5)
    for number in range(20, 24):
        batcher.submit([item(number, KEYS[1], 10, caller="late")], 0.0)
    assert before == [[0], [1], [2], [3], [4]]
    assert drain(batcher)[:6] == [[20], [5], [6], [21], [22], [7]], "6 was the oldest, for which its caller pays"


def test_callers_of_one_key_share_its_batches() -> None:
    batcher = Batcher(100, 4, 1000)
    for number in range(6):
        batcher.submit([item(number, KEYS[0], 10, caller="many")], 0.0)
    for number in (6, 7):
        batcher.submit([item(number, KEYS[0], 10, caller="few")], 0.0)
    assert [sorted(ids) for ids in drain(batcher)] == [[0, 1, 6, 7], [2, 3, 4, 5]]


def group(first: int, count: int, cost: int, caller: str) -> list[Item]:
    return [Item(number, KEYS[0], cost, 100.0, None, Flow(caller), first) for number in range(first, first + count)]


def test_the_items_of_a_message_run_together_and_their_caller_pays_for_all() -> None:
    batcher = Batcher(100, 4, 1000)
    for first, caller in ((0, "a"), (10, "b"), (20, "a"), (30, "c")):
        batcher.submit(group(first, 3, 10, caller), 0.0)
    order = drain(batcher)
    assert order[0] == [0, 1, 2, 10]
    assert order[1:3] == [[30, 31, 32, 11], [12, 20, 21, 22]], "b has had less than a"


def test_a_message_of_many_is_refused_as_a_whole() -> None:
    batcher = Batcher(10, 8, 100)
    batcher.submit([item(0, KEYS[0], 45, caller="other")], 0.0)
    with pytest.raises(ProblemError, match="The queue is full") as refused:
        batcher.submit(group(1, 6, 10, "many"), 0.0)
    assert (refused.value.limit, refused.value.actual) == (100, 105)
    assert batcher.queued_requests == 1
    batcher.submit(group(1, 4, 10, "many"), 0.0)
    assert drain(batcher) == [[0], [1], [2], [3], [4]]


def test_bulk_work_takes_what_interactive_work_leaves_and_a_quarter_in_any_case() -> None:
    batcher = Batcher(100, 2, 1000)
    for number in range(3):
        batcher.submit([item(number, KEYS[0], 10, priority="bulk")], 0.0)
    for number in range(10, 19):
        batcher.submit([item(number, KEYS[0 if number == 10 else 1], 10)], 0.0)
    assert drain(batcher) == [[10, 0], [11, 12], [13, 14], [1, 2], [15, 16], [17, 18]]


def test_one_caller_leaves_space_in_the_queue_for_others() -> None:
    batcher = Batcher(10, 8, 100)
    for number in range(40):
        batcher.submit([item(number, KEYS[0], 2, caller="greedy")], 0.0)
    with pytest.raises(ProblemError, match="The caller's share of the queue is full"):
        batcher.submit([item(40, KEYS[0], 2, caller="greedy")], 0.0)
    for number in range(100, 102):
        batcher.submit([item(number, KEYS[0], 10, caller=number)], 0.0)
    with pytest.raises(ProblemError, match="The queue is full"):
        batcher.submit([item(102, KEYS[0], 10, caller=102)], 0.0)


def test_a_halved_budget_recovers() -> None:
    batcher = Batcher(64, 100, 10_000)
    batcher.shrink(KEYS[0], 64)
    assert batcher.budget(KEYS[0]) == 32
    for number in range(640):
        batcher.submit([item(number, KEYS[0], 4)], 0.0)
    sizes = [len(ids) for ids in drain(batcher)]
    assert sizes[0] == 8
    assert max(sizes) == 16
    assert sizes[:9] == sorted(sizes[:9])


@pytest.mark.parametrize("bounds", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_bounds_must_be_positive(bounds: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Batcher(*bounds)
