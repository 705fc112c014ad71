"""Both executors with real threads, in every order of events that hypothesis finds: each caller is answered once."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from waiting import SECONDS, until

from service.errors import ProblemError
from service.flow import Flow
from service.in_process import Unobserved
from service.scheduling.batcher import MAX_RUNNING, Batcher
from service.scheduling.executor import BatchExecutor, DeviceFault, Fetch, OutOfMemory
from service.scheduling.step_executor import StepExecutor, StepRequest
from service.scheduling.stepper import Capacity
from service.scheduling.stepper import Sequence as Sample
from service.types import Done, Message, TokenizerKey

KEYS = [TokenizerKey("m", "encode", "pixels", (1, 8 * side, 8)) for side in (1, 2)]
FLOWS = [Flow("a"), Flow("b"), Flow("b", "bulk")]
PATIENT, LATE = 10 * SECONDS, 0.0

Kind = Literal["good", "poison", "huge"]


@dataclass(frozen=True)
class Payload:
    number: int
    kind: Kind
    cost: int


class Machine(RuleBasedStateMachine):
    """An executor, its loop, and a device that `gate` holds up. What its thread breaks is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.gate = threading.Event()
        self.gate.set()
        self.breaches: list[str] = []
        self.numbers = 0

    def expect(self, condition: bool, breach: str) -> None:
        if not condition:
            self.breaches.append(breach)

    def settle(self, condition: Callable[[], bool]) -> None:
        self.loop.run_until_complete(until(condition))

    @rule()
    def pass_time(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0.002))

    @rule()
    def hold(self) -> None:
        self.gate.clear()

    @rule()
    def release(self) -> None:
        self.gate.set()

    @invariant()
    def promises(self) -> None:
        assert not self.breaches


class BatchMachine(Machine):
    """The executor of batches."""

    @initialize(
        max_tokens=st.integers(2, 20),
        max_requests=st.integers(1, 6),
        memory=st.integers(1, 6),
        early=st.booleans(),
    )
    def start(self, max_tokens: int, max_requests: int, memory: int, early: bool) -> None:
        self.memory, self.early = memory, early  # items that fit, and whether the launch says so or the fetch
        self.batcher = Batcher(max_tokens, max_requests, 60)
        self.executor = BatchExecutor(self.launch, self.batcher, Unobserved())
        self.flights: list[object] = []
        self.broken = False
        self.sent: dict[int, tuple[Payload, float]] = {}
        self.cancelled: set[int] = set()
        self.answers: Counter[int] = Counter()

    def launch(self, key: TokenizerKey, payloads: Sequence[Payload]) -> Fetch:
        cost = sum(payload.cost for payload in payloads)
        self.expect(len(payloads) == 1 or cost <= self.batcher.max_tokens, "a batch is over its budget")
        self.expect(len(payloads) <= self.batcher.max_requests, "a batch has too many items")
        too_large = len(payloads) > self.memory or any(payload.kind == "huge" for payload in payloads)
        if too_large and self.early:
            raise OutOfMemory
        flight = object()
        self.flights.append(flight)
        self.expect(self.broken or len(self.flights) <= MAX_RUNNING, "too many batches are in flight")

        def fetch() -> Sequence[Any]:
            self.gate.wait(SECONDS)
            self.flights.remove(flight)
            if self.broken:
                raise DeviceFault
            if too_large:
                raise OutOfMemory
            if any(payload.kind == "poison" for payload in payloads):
                raise ValueError("poison")
            return [payload.number for payload in payloads]

        return fetch

    @rule(
        messages=st.lists(
            st.tuples(
                st.sampled_from(KEYS),
                st.lists(st.sampled_from(["good", "good", "good", "poison", "huge"]), min_size=1, max_size=4),
                st.integers(1, 9),
                st.sampled_from([PATIENT, PATIENT, PATIENT, LATE]),
                st.sampled_from(FLOWS),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def submit(self, messages: list[tuple[TokenizerKey, list[Kind], int, float, Flow]]) -> None:
        """Have messages come at one moment, each with its own deadline, caller and fate."""
        sent: list[tuple[list[Payload], Message]] = []
        for key, kinds, cost, seconds, flow in messages:
            payloads = [Payload(self.numbers + place, kind, cost) for place, kind in enumerate(kinds)]
            self.numbers += len(payloads)
            sent.append((payloads, Message(key, cost, payloads, seconds, self.answer_to(payloads), flow)))

        async def start() -> list[Sequence[int] | Exception]:
            return self.executor.start([message for _, message in sent])

        admitted = self.loop.run_until_complete(start())
        for (payloads, message), item_ids in zip(sent, admitted, strict=True):
            if isinstance(item_ids, Exception):
                assert isinstance(item_ids, ProblemError)
                assert not any(self.answers[payload.number] for payload in payloads)
                continue  # the queue is full
            pairs = zip(item_ids, payloads, strict=True)
            self.sent.update((item_id, (payload, message.seconds)) for item_id, payload in pairs)
        assert self.batcher.queued_tokens <= self.batcher.max_queue_tokens

    def answer_to(self, payloads: list[Payload]) -> Done:
        return lambda index, outcome, timing: self.answer(payloads[index], outcome, timing)

    def answer(self, payload: Payload, outcome: Any, timing: Any) -> None:
        self.answers[payload.number] += 1
        code = getattr(outcome, "code", type(outcome).__name__)
        allowed = {"good": "int", "poison": "ValueError", "huge": "gpu-memory"}[payload.kind]
        late = {"deadline-exceeded"} if any(sent == (payload, LATE) for sent in self.sent.values()) else set()
        fault = {"DeviceFault"} if self.broken else set()
        self.expect(code in {allowed, "draining"} | late | fault or not self.is_sent(payload), f"{payload} got {code}")
        self.expect(code != "int" or (outcome == payload.number and timing is not None), "an answer is another's")

    def is_sent(self, payload: Payload) -> bool:
        """Return whether `submit` has noted it; an answer may come before that."""
        return any(sent == payload for sent, _ in self.sent.values())

    @rule(place=st.integers(0, 100))
    def cancel(self, place: int) -> None:
        if not self.sent:
            return
        item_id = list(self.sent)[place % len(self.sent)]
        number = self.sent[item_id][0].number
        if self.executor.cancel(item_id):
            assert not self.answers[number]
            assert item_id not in self.cancelled
            self.cancelled.add(item_id)

    @precondition(lambda self: self.numbers > 5)
    @rule(die=st.integers(0, 9))
    def maybe_break(self, die: int) -> None:
        self.broken |= die == 0

    def open(self) -> set[int]:
        """Return the items that must still be answered."""
        return {
            item_id
            for item_id, (payload, _) in self.sent.items()
            if item_id not in self.cancelled and not self.answers[payload.number]
        }

    def teardown(self) -> None:
        if hasattr(self, "executor"):
            self.gate.set()
            if self.numbers % 3:  # else it closes in the middle
                self.settle(lambda: not self.open())
                assert self.executor.busy_seconds == 0
            self.executor.close()
            self.pass_time()
            assert not self.open()
            self.settle(lambda: self.broken or not self.flights)
            assert not self.breaches
            assert max(self.answers.values(), default=1) == 1
            assert not any(self.answers[self.sent[item_id][0].number] for item_id in self.cancelled)
            assert self.batcher.queued_requests == self.batcher.queued_tokens == 0
        self.loop.close()


CAPACITIES = {"lm": Capacity(4, 3), "dit": Capacity(3, 1, rounds=2)}
FAILURES = ("join", "prefill", "step", "finish")


class StepMachine(Machine):
    """The executor of steps: each sample joins, steps and leaves, and slots are never shared."""

    @initialize()
    def start(self) -> None:
        self.executor = StepExecutor(self, CAPACITIES, {"lm": "lm", "dit": "diffusion"}, 8, Unobserved())
        self.holding: dict[int, Sample] = {}
        self.left: set[int] = set()
        self.tasks: list[asyncio.Task[Any]] = []

    def fail(self, sequence: Sample, place: str) -> None:
        failing, error = sequence.payload
        if failing == place:
            raise error

    def join(self, sequence: Sample) -> None:
        self.expect(sequence.id not in self.left, "a sequence came back")
        self.fail(sequence, "join")
        self.holding[sequence.id] = sequence
        used = sum(other.slots for other in self.holding.values() if other.model == sequence.model)
        self.expect(used <= CAPACITIES[sequence.model].held, "slots are used twice")

    def prefill(self, sequence: Sample, tokens: int) -> None:
        self.expect(sequence.id in self.holding, "a prompt without slots is computed")
        self.expect(tokens <= CAPACITIES[sequence.model].chunk, "a chunk is too long")
        self.fail(sequence, "prefill")

    def step(self, model: str, sequences: Collection[Sample]) -> None:
        self.gate.wait(SECONDS)
        slots = sum(sequence.slots for sequence in sequences)
        self.expect(0 < slots <= CAPACITIES[model].slots, "a step is too wide")
        self.expect(all(sequence.id in self.holding for sequence in sequences), "a step advances who has no slots")
        for sequence in sequences:
            self.fail(sequence, "step")

    def peek(self, sequence: Sample) -> None:
        """Return nothing."""

    def finish(self, sequence: Sample) -> int:
        self.expect(self.holding.pop(sequence.id, None) is not None, "a sequence without slots has finished")
        self.left.add(sequence.id)
        self.fail(sequence, "finish")
        return sequence.id

    def leave(self, sequence: Sample) -> None:
        self.expect(sequence.id not in self.left, "a sequence leaves twice")
        self.holding.pop(sequence.id, None)
        self.left.add(sequence.id)

    @rule(
        model=st.sampled_from(["lm", "dit"]),
        slots=st.integers(1, 2),
        prefill=st.integers(0, 5),
        steps=st.integers(1, 4),
        fails=st.sampled_from([None, None, None, *FAILURES]),
        error=st.sampled_from([ValueError("poison"), OutOfMemory()]),
        seconds=st.sampled_from([PATIENT, PATIENT, PATIENT, LATE]),
    )
    def submit(
        self, model: str, slots: int, prefill: int, steps: int, fails: str | None, error: Exception, seconds: float
    ) -> None:
        request = StepRequest(model, slots, prefill if model == "lm" else 0, steps, (fails, error))
        self.tasks.append(self.loop.create_task(self.executor.submit(request, lambda progress: None, seconds)))
        self.loop.run_until_complete(asyncio.sleep(0))

    @precondition(lambda self: self.tasks)
    @rule(place=st.integers(0, 100))
    def cancel(self, place: int) -> None:
        self.tasks[place % len(self.tasks)].cancel()
        self.loop.run_until_complete(asyncio.sleep(0))

    def teardown(self) -> None:
        if hasattr(self, "executor"):
            self.gate.set()
            self.settle(lambda: all(task.done() for task in self.tasks))
            self.settle(lambda: not self.holding)
            self.executor.close()
            for task in self.tasks:
                if not task.cancelled():
                    error = task.exception()
                    assert isinstance(error, None | ProblemError | ValueError), error
            assert not self.breaches
        self.loop.close()


TestBatchExecutor = BatchMachine.TestCase
TestBatchExecutor.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStepExecutor = StepMachine.TestCase
TestStepExecutor.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
