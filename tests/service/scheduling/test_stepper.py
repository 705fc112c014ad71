"""The stepper against every interleaving that hypothesis finds, then its single rules by example."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import ProblemError
from service.scheduling.stepper import Capacity, Sequence, Stepper

ROUNDS = {"lm": 1, "diffusion": 3}


class StepperMachine(RuleBasedStateMachine):
    """Submits, cancels, lets time pass and takes turns at random; every promise is checked on the way."""

    @initialize(slots=st.integers(2, 6), chunk=st.integers(1, 5), queue=st.integers(1, 12))
    def start(self, slots: int, chunk: int, queue: int) -> None:
        self.slots, self.chunk, self.queue = slots, chunk, queue
        capacities = {model: Capacity(slots, chunk, rounds) for model, rounds in ROUNDS.items()}
        self.stepper = Stepper(capacities, queue)
        self.now, self.next_id = 0.0, 0
        self.sequences: dict[int, Sequence] = {}
        self.waiting: dict[int, Sequence] = {}  # in order of arrival
        self.holding: dict[int, Sequence] = {}
        self.leaving: set[int] = set()
        self.prefilled: dict[int, int] = {}
        self.missed: dict[int, int] = {}  # turns since the last step
        self.steps: dict[int, int] = {}
        self.resolved: dict[int, str] = {}

    @rule(
        model=st.sampled_from(list(ROUNDS)),
        slots=st.integers(1, 2),
        prefill=st.integers(0, 12),
        steps=st.integers(1, 6),
        patience=st.floats(0.5, 60),
    )
    def submit(self, model: str, slots: int, prefill: int, steps: int, patience: float) -> None:
        sequence = Sequence(self.next_id, model, slots, prefill, steps, self.now + patience)
        self.next_id += 1
        if len(self.waiting) >= self.queue:
            with pytest.raises(ProblemError) as refused:
                self.stepper.submit(sequence)
            assert refused.value.code == "overloaded"
            assert 0 < (refused.value.retry_after_seconds or 0) <= 60
            return
        self.stepper.submit(sequence)
        self.sequences[sequence.id] = self.waiting[sequence.id] = sequence
        ahead = [other for other in self.waiting.values() if other.model == model]
        assert self.stepper.position(sequence.id) == len(ahead) - 1

    @precondition(lambda self: self.waiting or self.holding)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence_id = data.draw(st.sampled_from(sorted({*self.waiting, *self.holding} - self.leaving) or [-1]))
        if sequence_id >= 0:
            assert self.stepper.cancel(sequence_id)
            self._give_up(sequence_id, "cancelled")
        assert not self.stepper.cancel(sequence_id)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(late=st.booleans(), data=st.data())
    def turn(self, late: bool, data: st.DataObject) -> None:
        turn = self.stepper.plan(self.now)
        for sequence in turn.expired:
            assert sequence.deadline <= self.now
            self._give_up(sequence.id, "expired")
        assert {sequence.id for sequence in turn.leaves} == self.leaving, "slots are free at the next turn"
        for sequence in turn.leaves:
            del self.holding[sequence.id]
        self.leaving.clear()
        for sequence in turn.joins:
            first = next(other for other in self.waiting.values() if other.model == sequence.model)
            assert first is sequence, "nobody overtakes"
            del self.waiting[sequence.id]
            self.holding[sequence.id] = sequence
            self.prefilled[sequence.id] = self.steps[sequence.id] = 0
        for model, rounds in ROUNDS.items():
            used = sum(sequence.slots for sequence in self.holding.values() if sequence.model == model)
            assert used <= self.slots * rounds
            assert sum(chunk.tokens for chunk in turn.prefills if chunk.sequence.model == model) <= self.chunk
            for head in [sequence for sequence in self.waiting.values() if sequence.model == model][:1]:
                assert used + head.slots > self.slots * rounds, "nobody waits while slots are free"
        for sequence, tokens in turn.prefills:
            assert tokens > 0
            self.prefilled[sequence.id] += tokens
        live = {id_: held for id_, held in self.holding.items() if self.prefilled[id_] == held.prefill}
        stepped = [sequence.id for _, sequences in turn.steps for sequence in sequences]
        for model, rounds in ROUNDS.items():
            own = [id_ for id_, held in live.items() if held.model == model]
            fits = sum(live[id_].slots for id_ in own) <= self.slots
            assert set(stepped) >= set(own) if fits else True, "no prefill holds up a live sequence"
            assert sum(live[id_].slots for id_ in own if id_ in stepped) <= self.slots
            for id_ in own:
                self.missed[id_] = 0 if id_ in stepped else self.missed.get(id_, 0) + 1
                assert self.missed[id_] <= 2 * rounds - 2, "all that is held steps in turn"
        for sequence_id in stepped:
            self.steps[sequence_id] += 1
        if late and live:  # cancelled while the turn runs
            sequence_id = data.draw(st.sampled_from(sorted(live)))
            assert self.stepper.cancel(sequence_id)
            self._give_up(sequence_id, "cancelled")
        self.now += 0.1
        finished = {sequence.id for sequence in self.stepper.complete(turn, self.now)}
        assert finished == {id_ for id_, held in live.items() if self.steps[id_] == held.steps} - self.leaving
        for sequence_id in finished:
            del self.holding[sequence_id]
            self._resolve(sequence_id, "finished")

    @invariant()
    def the_counts_agree(self) -> None:
        if not hasattr(self, "stepper"):
            return
        assert self.stepper.waiting == len(self.waiting)
        assert self.stepper.slots_in_use == sum(sequence.slots for sequence in self.holding.values())
        assert {sequence.id for sequence in self.stepper.running()} == set(self.holding) - self.leaving
        assert self.stepper.idle == (not self.waiting and not self.holding)
        for sequence_id in set(self.holding) - self.leaving:
            assert self.stepper.done(sequence_id) == self.steps[sequence_id]
            assert self.stepper.position(sequence_id) is None

    def teardown(self) -> None:
        if not hasattr(self, "stepper"):
            return
        bound = sum(sequence.steps + sequence.prefill for sequence in self.sequences.values()) + 2
        for _ in range(bound):
            turn = self.stepper.plan(0.0)  # time stands still, so nothing expires
            self.resolved |= dict.fromkeys((sequence.id for sequence in self.stepper.complete(turn, 0.0)), "finished")
        assert self.stepper.idle, "nothing starves"
        assert set(self.resolved) == set(self.sequences)

    def _give_up(self, sequence_id: int, outcome: str) -> None:
        self._resolve(sequence_id, outcome)
        if self.waiting.pop(sequence_id, None) is None:
            self.leaving.add(sequence_id)

    def _resolve(self, sequence_id: int, outcome: str) -> None:
        assert sequence_id not in self.resolved, "resolved once"
        self.resolved[sequence_id] = outcome


TestStepper = StepperMachine.TestCase


def sequence(sequence_id: int, slots: int = 1, steps: int = 4, **changes: Any) -> Sequence:
    return Sequence(sequence_id, changes.pop("model", "lm"), slots, changes.pop("prefill", 0), steps, 100.0, **changes)


def steps(stepper: Stepper, *seconds: float) -> None:
    """Take a turn of each of these lengths."""
    for taken in seconds:
        stepper.complete(stepper.plan(0.0), taken)


def ids(sequences: Any) -> list[int]:
    return [sequence.id for sequence in sequences]


def test_a_guided_sequence_waits_for_two_slots_and_nobody_slips_past() -> None:
    stepper = Stepper({"lm": Capacity(3, 8)}, 10)
    for one in (sequence(0, slots=2), sequence(1, slots=2), sequence(2)):
        stepper.submit(one)
    turn = stepper.plan(0.0)
    assert (ids(turn.joins), [step.model for step in turn.steps], stepper.position(2)) == ([0], ["lm"], 1)
    stepper.complete(turn, 0.1)
    assert stepper.cancel(0)
    turn = stepper.plan(0.1)
    assert (ids(turn.leaves), ids(turn.joins)) == ([0], [1, 2])


def test_the_samples_of_a_step_share_its_time() -> None:
    stepper = Stepper({"lm": Capacity(4, 8)}, 10)
    for number in range(2):
        stepper.submit(sequence(number))
    steps(stepper, 0.5, 0.5)
    assert stepper.step_seconds("lm") is None, "two may both have been held up"
    steps(stepper, 0.5)
    assert (stepper.step_seconds("lm"), stepper.sample_seconds("lm")) == (0.5, 0.25)


def test_a_turn_that_the_host_holds_up_leaves_the_time_of_a_step() -> None:
    stepper = Stepper({"lm": Capacity(1, 8)}, 10)
    stepper.submit(sequence(0, steps=99))
    steps(stepper, 30.0, 0.5, 0.5, 0.5, 30.0)
    assert stepper.step_seconds("lm") == 0.5
    steps(stepper, *[2.0] * 15)
    assert stepper.step_seconds("lm") == 2.0, "a lasting change is followed"


def test_the_time_of_the_queue_follows_from_its_steps() -> None:
    stepper = Stepper({"lm": Capacity(2, 8)}, 2)
    assert stepper.wait_seconds("lm") is None
    for number in range(2):
        stepper.submit(sequence(number, slots=2, steps=12))
    steps(stepper, 0.5, 0.5, 0.5)
    assert stepper.step_seconds("lm") == 0.5
    assert stepper.sample_seconds("lm") == 0.5
    assert stepper.wait_seconds("lm") == pytest.approx(0.5 * (9 + 12))
    stepper.submit(sequence(2))
    waits: set[float | None] = set()
    for _ in range(5):
        with pytest.raises(ProblemError) as refused:
            stepper.submit(sequence(3))
        assert refused.value.retry_after_seconds == pytest.approx(0.5 * 23, rel=0.3)
        waits.add(refused.value.retry_after_seconds)
    assert len(waits) > 1, "those that are refused together do not come back together"


def test_a_short_sequence_finishes_between_the_steps_of_long_ones() -> None:
    stepper = Stepper({"diffusion": Capacity(4, 8, rounds=3)}, 10)
    for number in range(4):
        stepper.submit(sequence(number, slots=2, steps=1000, model="diffusion"))
    stepper.complete(stepper.plan(0.0), 0.1)
    stepper.submit(sequence(9, slots=2, steps=3, model="diffusion"))
    finished = []
    for _ in range(8):  # three steps, each after those that waited longer
        turn = stepper.plan(0.1)
        assert len(turn.steps[0].sequences) == 2
        finished += ids(stepper.complete(turn, 0.2))
    assert finished == [9]
    assert all(stepper.done(number) for number in range(4))


@pytest.mark.parametrize(("slots", "steps", "number"), [(3, 1, 5), (1, 0, 5), (1, 1, 0)])
def test_what_can_never_run_is_refused(slots: int, steps: int, number: int) -> None:
    stepper = Stepper({"lm": Capacity(2, 8)}, 2)
    stepper.submit(sequence(0))
    with pytest.raises(ValueError, match=f"Sequence {number}"):
        stepper.submit(sequence(number, slots, steps))
    with pytest.raises(ValueError, match="positive"):
        Stepper({"lm": Capacity(0, 8)}, 2)
