"""Calls under kills: each is answered exactly once, no slot is read after its reuse, and none is lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.link.dispatch import Call, Dispatcher
from service.link.slots import CLASS_BYTES, SlotTable

ARENA_BYTES = 4 * CLASS_BYTES[0]
TRIES = 3
MODEL = "m"


class Tokenizer:
    """A process: calls that it has received, messages on the way, and whether it was killed."""

    def __init__(self) -> None:
        self.inbox: dict[int, tuple[Call, int]] = {}
        self.answers: list[tuple[str, int]] = []
        self.dropping: set[int] = set()
        self.killed = self.leaving = False


class Link(RuleBasedStateMachine):
    """One ingress process and its tokenizers. Slots hold the id of their call; a later call overwrites it."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = SlotTable(ARENA_BYTES)
        self.dispatcher = Dispatcher(self.slots.give_back)
        self.memory: dict[int, int] = {}
        self.peers: dict[int, Tokenizer] = {}
        self.made = 0
        self.callers: dict[int, Call] = {}
        self.outcomes: Counter[int] = Counter()

    def send(self, call: Call) -> None:
        if call.peer is not None:
            self.peers[call.peer].inbox[call.id] = (call, call.slots[0].offset)

    def resolve(self, call_id: int) -> None:
        del self.callers[call_id]
        self.outcomes[call_id] += 1

    @precondition(lambda self: len(self.peers) < 3)
    @rule()
    def a_tokenizer_starts(self) -> None:
        self.made += 1
        self.peers[self.made] = Tokenizer()
        for call in self.dispatcher.connect(self.made, [MODEL]):
            self.send(call)
        assert self.dispatcher.waiting == 0

    @rule(cost=st.integers(1, 9))
    def a_request_comes(self, cost: int) -> None:
        slot = self.slots.take(1)
        if slot is None:
            return
        self.made += 1
        call = Call(self.made, MODEL, cost, (slot,), TRIES)
        self.memory[slot.offset] = call.id
        self.callers[call.id] = call
        self.dispatcher.submit(call)
        self.send(call)

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def a_caller_leaves(self, data: st.DataObject) -> None:
        call = self.callers[data.draw(st.sampled_from(sorted(self.callers)))]
        self.resolve(call.id)
        peer = self.dispatcher.cancel(call)
        if peer is not None and call.id in self.peers[peer].inbox:
            self.peers[peer].dropping.add(call.id)
        assert self.dispatcher.cancel(call) is None

    @precondition(lambda self: any(peer.inbox and not peer.killed for peer in self.peers.values()))
    @rule(data=st.data())
    def a_tokenizer_reads_and_answers(self, data: st.DataObject) -> None:
        working = [peer for peer in self.peers.values() if peer.inbox and not peer.killed]
        peer = data.draw(st.sampled_from(working))
        call_id = data.draw(st.sampled_from(sorted(peer.inbox)))
        call, offset = peer.inbox.pop(call_id)
        assert self.memory[offset] == call.id, "a slot was read after its reuse"
        kinds = ["done", "dropped"] if call_id in peer.dropping else ["done", "elsewhere"]
        peer.answers.append((data.draw(st.sampled_from(kinds)), call_id))

    @precondition(lambda self: any(peer.answers for peer in self.peers.values()))
    @rule(data=st.data())
    def an_answer_arrives(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([number for number, peer in self.peers.items() if peer.answers]))
        kind, call_id = self.peers[number].answers.pop(0)
        call = self.dispatcher.find(number, call_id)
        assert call is not None
        if kind == "elsewhere":
            self.dispatcher.retire(number)
            if self.dispatcher.move(call) is not None:
                assert call.peer != number
                self.send(call)
            return
        self.dispatcher.finish(call)
        if not call.abandoned:
            assert kind == "done"
            self.resolve(call_id)

    @precondition(lambda self: self.peers)
    @rule(data=st.data())
    def a_tokenizer_is_killed(self, data: st.DataObject) -> None:
        self.peers[data.draw(st.sampled_from(sorted(self.peers)))].killed = True

    @precondition(lambda self: any(peer.killed and not peer.answers for peer in self.peers.values()))
    @rule(data=st.data())
    def its_socket_closes(self, data: st.DataObject) -> None:
        dead = [number for number, peer in self.peers.items() if peer.killed and not peer.answers]
        number = data.draw(st.sampled_from(dead))
        del self.peers[number]
        loss = self.dispatcher.disconnect(number)
        for call in loss.moved:
            self.send(call)
        for call in loss.failed:
            self.resolve(call.id)

    @rule()
    def waiting_calls_take_another_way(self) -> None:
        for call in self.dispatcher.give_up():
            self.slots.give_back(call.slots[0])
            self.resolve(call.id)

    @invariant()
    def slots_and_calls_agree(self) -> None:
        assert self.slots.taken_slots == self.dispatcher.outstanding
        assert set(self.callers) <= set(range(self.made + 1))
        assert max(self.outcomes.values(), default=1) == 1

    def teardown(self) -> None:
        for number in list(self.peers):
            self.peers[number].killed = True
            loss = self.dispatcher.disconnect(number)
            for call in loss.moved:
                self.send(call)
            for call in loss.failed:
                self.resolve(call.id)
            del self.peers[number]
        self.waiting_calls_take_another_way()
        assert not self.callers, "a caller waits for ever"
        assert self.slots.taken_slots == self.dispatcher.outstanding == 0


TestLink = Link.TestCase
TestLink.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


def call(number: int, cost: int = 1, model: str = MODEL, tries: int = TRIES) -> Call:
    return Call(number, model, cost, (), tries)


def make(*peers: int) -> Dispatcher:
    dispatcher = Dispatcher(SlotTable(ARENA_BYTES).give_back)
    for peer in peers:
        dispatcher.connect(peer, [MODEL])
    return dispatcher


def test_the_tokenizer_with_the_fewest_positions_is_next() -> None:
    dispatcher, calls = make(1, 2), [call(0, cost=9), call(1), call(2), call(3, cost=20), call(4)]
    for one in calls:
        dispatcher.submit(one)
    assert [one.peer for one in calls] == [1, 2, 2, 2, 1]


def test_idle_tokenizers_take_turns() -> None:
    dispatcher, seen = make(1, 2), []
    for number in range(4):
        one = call(number)
        dispatcher.submit(one)
        seen.append(one.peer)
        dispatcher.finish(one)
    assert seen == [1, 2, 1, 2]


def test_a_call_goes_where_its_bundle_is() -> None:
    dispatcher, one = make(1), call(0, model="other")
    assert not dispatcher.serves("other")
    dispatcher.submit(one)
    assert one.peer is None
    assert dispatcher.connect(2, ["other"]) == [one]
    assert one.peer == 2


def test_a_call_that_ends_every_tokenizer_fails() -> None:
    dispatcher, one = make(1, 2), call(0, tries=2)
    dispatcher.submit(one)
    assert one.peer == 1
    assert dispatcher.disconnect(1).moved == [one]
    assert one.peer == 2
    assert dispatcher.disconnect(2).failed == [one]


def test_a_tokenizer_that_leaves_gets_nothing_more() -> None:
    dispatcher, one = make(1), call(0)
    dispatcher.retire(1)
    dispatcher.submit(one)
    assert one.peer is None
    assert not dispatcher.serves(MODEL)
