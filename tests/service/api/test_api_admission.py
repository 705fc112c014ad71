"""Places and bytes of one ingress process, against every order of events that hypothesis finds."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.api.admission import Admission, Place
from service.errors import ProblemError


class AdmissionMachine(RuleBasedStateMachine):
    """Admits, reads and ends requests at random; nothing is held beyond the bounds, and nothing stays behind."""

    @initialize(requests=st.integers(1, 5), size=st.integers(1, 100))
    def start(self, requests: int, size: int) -> None:
        self.now = 0.0
        self.requests, self.size = requests, size
        self.admission = Admission(requests, size, lambda: self.now)
        self.open: list[tuple[ExitStack, Place]] = []

    @rule()
    def admit(self) -> None:
        stack = ExitStack()
        if len(self.open) < self.requests:
            self.open.append((stack, stack.enter_context(self.admission.admitted())))
            return
        with pytest.raises(ProblemError) as refused:
            stack.enter_context(self.admission.admitted())
        assert refused.value.code == "overloaded"
        assert 0 < (refused.value.retry_after_seconds or 0) <= 60

    @precondition(lambda self: self.open)
    @rule(data=st.data(), size=st.integers(0, 60), arrives=st.booleans())
    def read(self, data: st.DataObject, size: int, arrives: bool) -> None:
        _, place = data.draw(st.sampled_from(self.open))
        others = sum(other.held for _, other in self.open if other is not place)
        take = place.take if arrives else place.expect
        if others and others + place.held + size > self.size:
            with pytest.raises(ProblemError, match="overloaded"):
                take(size)
        else:
            take(size)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), seconds=st.floats(0, 10))
    def end(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        ended = data.draw(st.sampled_from(self.open))
        self.open.remove(ended)
        ended[0].close()

    @invariant()
    def bounds_hold(self) -> None:
        if hasattr(self, "open"):
            held = [place.held for _, place in self.open if place.held]
            assert len(held) <= 1 or sum(held) <= self.size + max(held)

    def teardown(self) -> None:
        for stack, _ in getattr(self, "open", []):
            stack.close()
        if hasattr(self, "admission"):
            with self.admission.admitted() as place:
                place.take(10 * self.size)  # everything was given back


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("rate", [0.5, 3.0, 40.0])
def test_a_refused_caller_learns_when_half_of_the_places_will_be_free(rate: float) -> None:
    now = 0.0
    admission = Admission(20, 100, lambda: now)
    stacks = [ExitStack() for _ in range(20)]
    for stack in stacks:
        stack.enter_context(admission.admitted())
    for stack in stacks:  # one ends and another begins
        now += 1 / rate
        stack.close()
        stack.enter_context(admission.admitted())
    with pytest.raises(ProblemError) as refused, admission.admitted():
        pass
    assert 0.5 <= (refused.value.retry_after_seconds or 0) / (10 / rate) <= 2
