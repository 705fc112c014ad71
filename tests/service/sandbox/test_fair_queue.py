"""The order in which media tasks run: shares by caller, cheap before dear, nothing left behind, nothing over bounds."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.sandbox.fair_queue import FairQueue, Ticket

MAX_TASKS, MAX_COST, MAX_BYTES = 8, 400.0, 100
CALLERS = ("a", "b", "c")
DEAREST = 100
PATIENCE = 4


def queue_of(*tasks: tuple[str, float]) -> FairQueue[int]:
    queue: FairQueue[int] = FairQueue(100, 1e9, 1, PATIENCE)
    for number, (caller, cost) in enumerate(tasks):
        assert queue.push(Ticket(number, caller, cost)) == []
    return queue


def order(queue: FairQueue[int]) -> list[int]:
    return [ticket.task for ticket in iter(queue.pop, None)]


def test_the_cheapest_goes_first_for_one_caller() -> None:
    assert order(queue_of(("a", 9), ("a", 1), ("a", 5), ("a", 1))) == [1, 3, 2, 0]


def test_a_cheap_task_passes_a_queue_of_dear_ones() -> None:
    queue = queue_of(*[("a", 10.0)] * 8)
    for _ in range(3):
        queue.pop()
        queue.charge("a", 1000)  # they took longer than they cost
        queue.push(Ticket(8, "a", 10))
    queue.push(Ticket(9, "a", 1))
    assert order(queue)[0] == 9


def test_a_full_queue_refuses_more_of_the_same_from_the_caller_that_has_most() -> None:
    queue: FairQueue[int] = FairQueue(4, 1e9, 1, PATIENCE)
    for number, caller in enumerate("aaab"):
        assert not queue.refuses(caller, 10)
        assert queue.push(Ticket(number, caller, 11)) == []
    assert queue.refuses("a", 10)
    assert not queue.refuses("b", 10)
    assert not queue.refuses("c", 10)
    assert [ticket.caller for ticket in queue.push(Ticket(4, "b", 11))] == ["a"]
    dear: FairQueue[int] = FairQueue(1, 1e9, 1, PATIENCE)
    dear.push(Ticket(0, "a", 200))
    assert not dear.refuses("a", 10), "the dear task would go"


def test_a_full_queue_of_equals_refuses_newcomers_and_keeps_who_waits() -> None:
    queue: FairQueue[int] = FairQueue(4, 1e9, 1, PATIENCE)
    for number, caller in enumerate("abcd"):
        assert not queue.refuses(caller, 10)
        assert queue.push(Ticket(number, caller, 11)) == []
    for caller in "ae":
        assert queue.refuses(caller, 10)
        assert [ticket.task for ticket in queue.push(Ticket(4, caller, 11))] == [4]
    assert queue.refuses("e", 10, 2)
    assert sorted(order(queue)) == [0, 1, 2, 3]


def test_callers_have_equal_shares_of_the_cost() -> None:
    tasks = [("greedy", 10.0)] * 12 + [("other", 10.0)] * 2
    assert sorted(order(queue_of(*tasks))[:4]) == [0, 1, 12, 13]


def test_a_dear_task_is_passed_by_a_multiple_of_its_cost() -> None:
    queue = queue_of(("a", 50))
    passed = 0.0
    while True:
        assert queue.push(Ticket(1, "a", 3)) == []
        ticket = queue.pop()
        assert ticket is not None
        if ticket.task == 0:
            break
        passed += ticket.cost
    assert PATIENCE * (50 - 3) <= passed <= PATIENCE * 50


def test_time_that_a_caller_did_not_use_is_lost() -> None:
    queue = queue_of(*[("busy", 10.0)] * 10)
    for _ in range(10):
        queue.pop()
    for number in range(4):
        queue.push(Ticket(number, "busy" if number % 2 else "idle", 10))
    callers = [ticket.caller for ticket in iter(queue.pop, None)]
    assert callers[:2] in (["busy", "idle"], ["idle", "busy"])


def test_what_a_task_cost_beyond_its_estimate_is_paid_later() -> None:
    queue = queue_of(("liar", 1), ("honest", 5), ("liar", 1))
    first = queue.pop()
    assert first is not None
    assert first.caller == "liar"
    queue.charge("liar", 100)
    assert order(queue) == [1, 2]


def test_a_lane_for_cheap_tasks_takes_no_other() -> None:
    queue = queue_of(("a", 50), ("b", 7), ("a", 6))
    assert [ticket.task for ticket in iter(lambda: queue.pop(10), None)] == [2, 1]
    assert order(queue) == [0]


def test_bounds_are_held_at_the_expense_of_who_holds_most() -> None:
    queue: FairQueue[int] = FairQueue(4, 1e9, 1, PATIENCE)
    for number in range(4):
        assert queue.push(Ticket(number, "greedy", 10 + number)) == []
    assert [ticket.task for ticket in queue.push(Ticket(4, "other", 5))] == [3]
    assert [ticket.task for ticket in queue.push(Ticket(5, "greedy", 99))] == [5]


class AnyUse(RuleBasedStateMachine):
    """Any pushing, popping, leaving and correcting, against what must always hold."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue(MAX_TASKS, MAX_COST, MAX_BYTES, PATIENCE)
        self.waiting: dict[int, Ticket[int]] = {}
        self.passed: Counter[int] = Counter()
        self.pushed = 0

    @rule(caller=st.sampled_from(CALLERS), cost=st.integers(1, DEAREST), size=st.integers(0, 200))
    def push(self, caller: str, cost: int, size: int) -> None:
        ticket = Ticket(self.pushed, caller, cost, size)
        self.waiting[self.pushed] = ticket
        self.pushed += 1
        for dropped in self.queue.push(ticket):
            assert self.waiting.pop(dropped.task) is dropped

    @rule(max_cost=st.sampled_from([DEAREST // 10, DEAREST]))
    def pop(self, max_cost: int) -> None:
        ticket = self.queue.pop(max_cost)
        fitting = [waiting for waiting in self.waiting.values() if waiting.cost <= max_cost]
        assert (ticket is None) == (not fitting)
        if ticket is None:
            return
        assert ticket.cost <= max_cost
        assert self.waiting.pop(ticket.task) is ticket
        for older in fitting:
            if older.caller == ticket.caller and older.task < ticket.task:
                self.passed[older.task] += int(ticket.cost)
                assert self.passed[older.task] <= PATIENCE * older.cost + DEAREST

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.queue.remove(self.waiting.pop(data.draw(st.sampled_from(sorted(self.waiting)))))

    @rule(caller=st.sampled_from(CALLERS), cost=st.integers(0, DEAREST))
    def cost_more(self, caller: str, cost: int) -> None:
        self.queue.charge(caller, cost)

    @invariant()
    def nothing_is_lost_and_bounds_hold(self) -> None:
        assert len(self.queue) == len(self.waiting)
        if len(self.waiting) > 1:
            assert len(self.waiting) <= MAX_TASKS
            assert sum(ticket.cost for ticket in self.waiting.values()) <= MAX_COST
            assert sum(ticket.size for ticket in self.waiting.values()) <= MAX_BYTES

    def teardown(self) -> None:
        assert sorted(order(self.queue)) == sorted(self.waiting)
        assert len(self.queue) == 0


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
