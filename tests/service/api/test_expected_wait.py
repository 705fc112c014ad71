"""The bound of the expected wait in a replica."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

import pytest

from service.api.expected_wait import ALWAYS_TAKEN, ExpectedWait
from service.errors import ProblemError


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pass_together(wait: ExpectedWait, clock: Clock, count: int, seconds_each: float, compute_ms: float = 0.0) -> int:
    """Let requests come at once and leave one after another; return how many were taken."""
    stacks = []
    for _ in range(count):
        try:
            wait.check()
        except ProblemError:
            continue
        stack, notes = ExitStack(), dict[str, Any]()
        stack.enter_context(wait.passing(notes))
        stacks.append((stack, notes))
    for stack, notes in stacks:
        clock.now += seconds_each
        notes["compute_ms"] = compute_ms
        stack.close()
    return len(stacks)


def test_a_crowd_is_taken_as_far_as_it_leaves_in_time() -> None:
    clock = Clock()
    wait = ExpectedWait(1.0, clock)
    assert pass_together(wait, clock, 100, 0.02) == 100, "nothing is known at first"
    for _ in range(5):
        taken = pass_together(wait, clock, 500, 0.02)
    assert taken == pytest.approx(50, rel=0.1)


def test_the_refusal_says_when_to_come_back() -> None:
    clock = Clock()
    wait = ExpectedWait(1.0, clock)
    pass_together(wait, clock, 100, 0.1)
    with ExitStack() as stack:
        assert wait.seconds() == 0.0, "it would be alone"
        for _ in range(20):
            stack.enter_context(wait.passing({}))
        assert wait.seconds() == pytest.approx(2.1, rel=0.1)
        with pytest.raises(ProblemError) as refused:
            wait.check()
    problem = refused.value
    assert (problem.code, problem.limit, problem.actual) == ("overloaded", 1.0, pytest.approx(2.1, rel=0.1))
    assert problem.retry_after_seconds == pytest.approx(2.1, rel=0.4)


def test_work_itself_is_no_wait() -> None:
    clock = Clock()
    wait = ExpectedWait(1.0, clock)
    for _ in range(3):
        assert pass_together(wait, clock, 30, 0.1, compute_ms=3000.0) == 30


def test_few_are_always_taken_and_teach_it_that_the_crowd_is_over() -> None:
    clock = Clock()
    wait = ExpectedWait(1.0, clock)
    pass_together(wait, clock, 100, 1.0)
    assert pass_together(wait, clock, 100, 1.0) == ALWAYS_TAKEN
    for _ in range(20):
        pass_together(wait, clock, 100, 0.01)
    assert pass_together(wait, clock, 100, 0.01) >= 90


def test_requests_that_wait_for_no_tokenizer_teach_nothing() -> None:
    clock = Clock()
    wait = ExpectedWait(1.0, clock)
    with wait.passing({}):
        clock.now += 1000.0
    assert pass_together(wait, clock, 100, 0.001) == 100


def test_who_expires_has_waited() -> None:
    clock = Clock()
    wait = ExpectedWait(1.0, clock)

    def expire_together(count: int, seconds: float) -> int:
        with ExitStack() as stack:
            taken = 0
            for _ in range(count):
                with suppress(ProblemError):
                    wait.check()
                    stack.enter_context(wait.passing({"positions": 1024}))
                    taken += 1
            clock.now += seconds
        return taken

    assert expire_together(200, 5.0) == 200, "nothing is known at first"
    for _ in range(30):
        taken = expire_together(200, 5.0)
    assert taken == pytest.approx(ALWAYS_TAKEN, abs=2), "as few as end before their time"
    for _ in range(30):
        assert expire_together(200, 0.001) == taken, "who leaves at once says nothing of the wait"
    for _ in range(20):
        pass_together(wait, clock, 100, 0.001)
    assert pass_together(wait, clock, 100, 0.001) == 100
