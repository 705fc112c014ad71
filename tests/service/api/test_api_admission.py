"""Places, streams and bytes of one ingress process, against every order of events that hypothesis finds."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.api.admission import Admission, Place
from service.api.transfer import NEWCOMER_SECONDS
from service.errors import ProblemError
from service.settings import Settings


class AdmissionMachine(RuleBasedStateMachine):
    """Admits, reads and ends requests at random; nothing is held beyond the bounds, and nothing stays behind."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[ExitStack, Place]] = []
        self.arriving: list[tuple[ExitStack, Place]] = []
        self.streams: list[tuple[ExitStack, str]] = []

    @property
    def working(self) -> int:
        return len(self.open) + len(self.streams)

    @initialize(
        requests=st.integers(1, 5), size=st.integers(1, 100), bodies=st.integers(1, 4), streams=st.integers(1, 4)
    )
    def start(self, requests: int, size: int, bodies: int, streams: int) -> None:
        self.now = 0.0
        self.requests, self.size, self.bodies, self.most_streams = requests, size, bodies, streams
        bounds = Settings(
            max_inflight_requests=requests, held_body_bytes=size, max_streams=streams, max_arriving_requests=bodies
        )
        self.admission = Admission(bounds, lambda: self.now)

    @rule(caller=st.sampled_from("ab"))
    def stream(self, caller: str) -> None:
        stack = ExitStack()
        mine = sum(name == caller for _, name in self.streams)
        most = self.most_streams - bool(mine)  # the last place is for those that have none
        if len(self.streams) < most and self.working < self.requests:
            stack.enter_context(self.admission.stream(caller))
            self.streams.append((stack, caller))
            return
        with pytest.raises(ProblemError) as refused:
            stack.enter_context(self.admission.stream(caller))
        assert refused.value.code == "overloaded"
        assert refused.value.retry_after_seconds

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), seconds=st.floats(0, 10))
    def end_stream(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        ended = data.draw(st.sampled_from(self.streams))
        self.streams.remove(ended)
        ended[0].close()

    @rule()
    def admit(self) -> None:
        stack = ExitStack()
        if self.working < self.requests:
            self.open.append((stack, stack.enter_context(self.admission.admitted())))
            return
        with pytest.raises(ProblemError) as refused:
            stack.enter_context(self.admission.admitted())
        assert refused.value.code == "overloaded"
        assert 0 < (refused.value.retry_after_seconds or 0) <= 60

    @rule(seconds=st.floats(0, 2))
    def receive(self, seconds: float) -> None:
        self.now += seconds
        stack = ExitStack()
        if self.working >= self.requests:
            with pytest.raises(ProblemError, match="overloaded"):
                stack.enter_context(self.admission.receiving())
            return
        slow = [place for _, place in self.arriving if place.give_way and self.now - place.since >= NEWCOMER_SECONDS]
        if len(self.arriving) == self.bodies and not slow:
            with pytest.raises(ProblemError, match="overloaded"):
                stack.enter_context(self.admission.receiving())
            return
        expected = len(self.arriving) + (len(self.arriving) < self.bodies)
        place = stack.enter_context(self.admission.receiving())
        place.give_way = lambda: self.given_up(place)
        self.arriving.append((stack, place))
        assert len(self.arriving) == expected

    def given_up(self, place: Place) -> None:
        """Do what the reader of a body does: it ends with a refusal."""
        rate = place.size / (self.now - place.since)
        others = [one for _, one in self.arriving if self.now - one.since >= NEWCOMER_SECONDS]
        assert rate == min(one.size / (self.now - one.since) for one in others)
        (ended,) = [entry for entry in self.arriving if entry[1] is place]
        self.arriving.remove(ended)
        ended[0].close()

    @precondition(lambda self: self.arriving)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        arrived = data.draw(st.sampled_from(self.arriving))
        self.arriving.remove(arrived)
        if self.working < self.requests:
            arrived[1].arrived()
            self.open.append(arrived)
        else:
            with pytest.raises(ProblemError, match="overloaded"), arrived[0]:
                arrived[1].arrived()

    @precondition(lambda self: self.open or self.arriving)
    @rule(data=st.data(), size=st.integers(0, 60), arrives=st.booleans())
    def read(self, data: st.DataObject, size: int, arrives: bool) -> None:
        places = [place for _, place in self.open + self.arriving]
        place = data.draw(st.sampled_from(places))
        others = sum(other.size for other in places if other is not place)
        take = place.take if arrives else place.expect
        if others and others + place.size + size > self.size:
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
        held = [place.size for _, place in self.open + self.arriving if place.size]
        assert len(held) <= 1 or sum(held) <= self.size + max(held)
        assert self.working <= self.requests
        assert len(self.streams) <= self.most_streams

    def teardown(self) -> None:
        for stack, _ in (*self.open, *self.arriving, *self.streams):
            stack.close()
        if hasattr(self, "admission"):
            with self.admission.stream("a"):
                pass
            with self.admission.admitted() as place:
                place.take(10 * self.size)  # everything was given back


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_work_of_minutes_leaves_places_and_bytes_to_work_of_seconds() -> None:
    admission = Admission(Settings(max_inflight_requests=4, held_body_bytes=400))
    with ExitStack() as stack:
        places = [stack.enter_context(admission.receiving(long=True)) for _ in range(4)]
        for place in places[:3]:
            place.take(100)
            place.arrived()
        for refused in (lambda: places[3].expect(1), places[3].arrived):
            with pytest.raises(ProblemError, match="overloaded"):
                refused()
        with pytest.raises(ProblemError, match="overloaded"), admission.receiving(long=True):
            pass
        with admission.receiving() as other:
            other.take(100)
            other.arrived()
    with admission.receiving(long=True) as alone:
        alone.take(1000)
        alone.arrived()


@pytest.mark.parametrize("rate", [0.5, 3.0, 40.0])
def test_a_refused_caller_learns_when_half_of_the_places_will_be_free(rate: float) -> None:
    now = 0.0
    admission = Admission(Settings(max_inflight_requests=20), lambda: now)
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


def test_the_slowest_stream_gives_way_if_it_is_slow_and_waited_for() -> None:
    now, ended = 0.0, list[str]()
    admission = Admission(Settings(max_streams=3), lambda: now)
    with ExitStack() as stack:
        places = {name: stack.enter_context(admission.stream(name)) for name in "abc"}
        for name, place in places.items():
            if name != "c":  # its chunk is computed, so its sender is not waited for
                stack.enter_context(place.waiting(lambda name=name: ended.append(name)))
        places["a"].size += 100
        places["b"].size += 10**6
        now = 4.0
        with pytest.raises(ProblemError, match="3 streams already"), admission.stream("d"):
            pass
        now = 6.0
        with pytest.raises(ProblemError, match="1 of them the caller's"), admission.stream("b"):
            pass
        assert ended == []
        with admission.stream("d"):
            assert (ended, places["a"].gave_way) == (["a"], True)
            with pytest.raises(ProblemError), admission.stream("e"):
                pass
        with admission.stream("e"):
            assert ended == ["a"]


def test_a_caller_who_is_waited_for_on_both_sides_is_waited_for_once() -> None:
    now, ended = 0.0, list[str]()
    admission = Admission(Settings(max_streams=2), lambda: now)
    with admission.stream("a") as place, admission.stream("b"), ExitStack() as sender:
        sender.enter_context(place.waiting(lambda: ended.append("sender")))
        now = 4.0
        with place.waiting(lambda: ended.append("reader")):
            now = 6.0
            place.size = 3 * 16_384 * 4
            assert place.pace() == place.size / 6
            sender.close()
            now = 12.0
            assert place.pace() == 16_384
            place.size -= 1
            sender.enter_context(place.waiting(lambda: ended.append("sender")))
            with admission.stream("c"):
                assert sorted(ended) == ["reader", "sender"]


def test_a_caller_ends_no_stream_but_its_own_for_a_second_one() -> None:
    now, ended = 0.0, list[str]()
    admission = Admission(Settings(max_streams=3), lambda: now)
    with ExitStack() as stack:
        for name in "ab":
            place = stack.enter_context(admission.stream(name))
            stack.enter_context(place.waiting(lambda name=name: ended.append(name)))
        now = 6.0
        with admission.stream("b"):
            assert ended == ["b"]
