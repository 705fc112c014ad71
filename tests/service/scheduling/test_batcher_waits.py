"""The waits that the batcher expects, and the refusals that follow from them."""

from __future__ import annotations

import math

import pytest
from batcher_items import KEYS, item, measured
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ProblemError
from service.scheduling.batcher import Batcher
from service.scheduling.item import Key


def refusal(batcher: Batcher, key: Key = KEYS[0], deadline: float = 100.0, now: float = 0.0) -> ProblemError:
    with pytest.raises(ProblemError) as refused:
        batcher.submit([item(99, key, 1, deadline)], now)
    assert refused.value.code == "overloaded"
    return refused.value


def test_the_retry_time_is_the_time_to_drain() -> None:
    batcher = measured((10, 2.0))  # 5 tokens a second
    batcher.max_queue_tokens = 100
    for number in range(10):
        batcher.submit([item(number, KEYS[0], 10, caller=number)], 0.0)
    problem = refusal(batcher)
    assert problem.retry_after_seconds == pytest.approx(20.0, rel=0.3)
    assert (problem.limit, problem.actual) == (100, 101)


def test_callers_that_are_refused_together_do_not_return_together() -> None:
    batcher = measured((10, 2.0), max_queue_seconds=3.0)
    batcher.submit([item(0, KEYS[0], 20)], 0.0)
    assert len({refusal(batcher).retry_after_seconds for _ in range(5)}) > 1


def test_a_queue_is_bounded_in_seconds() -> None:
    batcher = measured((10, 2.0), max_queue_seconds=3.0)
    batcher.submit([item(0, KEYS[0], 10)], 0.0)  # nothing waits before it
    batcher.submit([item(1, KEYS[0], 10)], 0.0)  # 2 s wait before it
    problem = refusal(batcher)
    assert (problem.limit, problem.actual) == (3.0, pytest.approx(4.0))


def test_what_cannot_start_in_time_is_refused_at_once() -> None:
    batcher = measured((10, 2.0))
    batcher.submit([item(0, KEYS[0], 10)], 0.0)
    batcher.next_batch(0.0)
    assert refusal(batcher, deadline=1.0).actual == pytest.approx(2.0)
    batcher.submit([item(1, KEYS[0], 10, deadline=2.5)], 1.0)  # by then it runs for a second already


def test_what_would_start_in_time_and_end_late_is_refused_at_once() -> None:
    batcher = measured((10, 2.0))
    batcher.submit([item(0, KEYS[0], 10)], 0.0)
    assert refusal(batcher, deadline=3.5).actual == pytest.approx(2.0)  # and eight like it take 1.6 s
    batcher.submit([item(1, KEYS[0], 10, deadline=4.5)], 0.0)


def test_an_idle_batcher_refuses_nobody() -> None:
    batcher = measured((1, 50.0), max_queue_seconds=0.1)
    batcher.submit([item(0, KEYS[0], 1000, deadline=0.1)], 0.0)


def test_an_item_of_another_key_waits_only_for_its_turn() -> None:
    batcher = measured((10, 2.0), max_queue_seconds=3.0)
    for number in range(2):
        batcher.submit([item(number, KEYS[0], 10)], 0.0)
    refusal(batcher)
    batcher.submit([item(2, KEYS[1], 10)], 0.0)  # the first batch of the other key, then its own


@pytest.mark.parametrize(("number", "wrong_by"), [(0, 6.0), (20, 1.6), (40, 1.1)])
def test_the_rate_recovers_from_one_very_slow_batch(number: int, wrong_by: float) -> None:
    batcher = measured(*[(10, 0.1)] * 50, (10, 1.0), *[(10, 0.1)] * number)
    batcher.submit([item(0, KEYS[0], 10)], 0.0)
    wait = batcher.wait(item(1, KEYS[0], 1), 0.0)
    assert wait is not None
    assert 0.1 / 1.01 <= wait <= 0.1 * wrong_by


@given(
    costs=st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 30)), min_size=1, max_size=40),
    last=st.sampled_from(KEYS),
    rate=st.floats(1, 1000),
)
def test_a_wait_is_right_within_a_factor_of_two(costs: list[tuple[Key, int]], last: Key, rate: float) -> None:
    """The engine is as fast as it was, and nothing else comes."""
    batcher = measured((10, 10 / rate))
    now = 0.0
    for number, (key, cost) in enumerate(costs):
        batcher.submit([item(number, key, cost, math.inf)], now)
    probe = item(99, last, 1, math.inf)
    expected = batcher.wait(probe, now)
    batcher.submit([probe], now)
    while True:
        batch = batcher.next_batch(now)
        assert batch is not None
        if probe in batch.items:
            break
        now += batch.cost / rate
        batcher.complete(now)
    largest = max(cost for _, cost in costs)  # one batch more or less is a matter of turns
    slack = len(KEYS) * max(10, largest) / rate
    assert expected is not None
    assert (now - slack) / 2 <= expected <= 2 * now + slack


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(KEYS), st.integers(1, 30), st.booleans())))
def test_a_wait_does_not_depend_on_who_asked_before(steps: list[tuple[str, Key, int, bool]]) -> None:
    asked, silent = measured((10, 2.0)), measured((10, 2.0))
    for number, (caller, key, cost, served) in enumerate(steps):
        probe = item(99, key, cost, math.inf, caller)
        asked.wait(probe, 0.0)
        for batcher in (asked, silent):
            batcher.submit([item(number, key, cost, math.inf, caller)], 0.0)
            if served and batcher.next_batch(0.0) is not None:
                batcher.complete(2.0)
    for caller in "abcde":
        probe = item(99, KEYS[0], 5, math.inf, caller)
        assert asked.wait(probe, 0.0) == silent.wait(probe, 0.0) == asked.wait(probe, 0.0)
