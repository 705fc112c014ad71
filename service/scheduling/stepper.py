"""Sequences that advance step by step, in order: a state machine without threads, clocks or tensors of its own.

Each model has slots. Sequences join and leave between steps, first come, first served: none overtakes one of its model
that waits, so none starves. Every turn gives each model one chunk of prefill and one step, so a long prompt never
holds up the rest. Where more sequences are held than one step can take, they step by turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from service.drain_rate import retry_after
from service.errors import ProblemError

# Turns whose median is the time of a step: one that the host held up, as it does at the first one, changes nothing.
MIN_TURNS, MAX_TURNS = 3, 15


@dataclass(frozen=True, eq=False)
class Sequence:
    """One request for the steps of a model.

    Args:
        id: unique among the sequences of one stepper.
        model: name of a model.
        slots: slots that it takes, 2 with guidance.
        prefill: prompt tokens to compute before its first step, 0 for none.
        steps: steps until it is finished, at least 1.
        deadline: time after which it is given up, seconds on the caller's clock.
        payload: handed on untouched.
    """

    id: int
    model: str
    slots: int
    prefill: int
    steps: int
    deadline: float
    payload: Any = None


class Capacity(NamedTuple):
    """Bounds of a model.

    Args:
        slots: that one step can take.
        chunk: prompt tokens that it computes in one turn.
        rounds: steps that it takes to reach all that it holds; with one, every live sequence is in every step.
    """

    slots: int
    chunk: int
    rounds: int = 1

    @property
    def held(self) -> int:
        """Return the slots of all sequences that it holds."""
        return self.slots * self.rounds


class Chunk(NamedTuple):
    """Prompt tokens of a sequence to compute in this turn."""

    sequence: Sequence
    tokens: int


class Step(NamedTuple):
    """One step of a model, and the sequences that it advances."""

    model: str
    sequences: tuple[Sequence, ...]


@dataclass(frozen=True)
class Turn:
    """The work between two looks at the queue, in this order; `Stepper.complete` must follow it.

    Args:
        expired: sequences that are given up, whether they ran or not; their deadline has come.
        leaves: sequences whose slots are free now: cancelled, failed or expired.
        joins: sequences that get their slots.
        prefills: chunks of prompts.
        steps: one of each model that has live sequences.
        started: when the turn began.
    """

    expired: tuple[Sequence, ...]
    leaves: tuple[Sequence, ...]
    joins: tuple[Sequence, ...]
    prefills: tuple[Chunk, ...]
    steps: tuple[Step, ...]
    started: float

    @property
    def empty(self) -> bool:
        """Return whether nothing is to be done."""
        return not (self.expired or self.leaves or self.joins or self.prefills or self.steps)


@dataclass
class _Lane:
    """The sequences of one model: those that wait, those in prefill, those that are live."""

    capacity: Capacity
    free: int = 0
    waiting: dict[int, Sequence] = field(default_factory=dict)  # in order of arrival
    prefilling: dict[int, int] = field(default_factory=dict)  # id -> tokens left, in order of joining
    live: dict[int, int] = field(default_factory=dict)  # id -> steps left, those that step next first
    joined: dict[int, Sequence] = field(default_factory=dict)
    leaving: dict[int, Sequence] = field(default_factory=dict)  # resolved already; they hold slots until the next turn
    turns: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=MAX_TURNS))  # seconds, samples

    @property
    def step_seconds(self) -> float | None:
        """Return the usual time of a turn, seconds."""
        return self._median(seconds for seconds, _ in self.turns)

    @property
    def sample_seconds(self) -> float | None:
        """Return the usual share of a sample in a turn, seconds."""
        return self._median(seconds / samples for seconds, samples in self.turns)

    def _median(self, values: Iterable[float]) -> float | None:
        return median(values) if len(self.turns) >= MIN_TURNS else None


class Stepper:
    """Queues and slots per model, and the choice of the next turn.

    Args:
        capacities: slots and prefill chunk of each model.
        max_waiting: sequences that may wait, all models together.
    """

    def __init__(self, capacities: Mapping[str, Capacity], max_waiting: int) -> None:
        if max_waiting < 1 or any(min(capacity) < 1 for capacity in capacities.values()):
            raise ValueError(f"Bounds must be positive: {max_waiting=} {dict(capacities)}.")
        self.max_waiting = max_waiting
        self._lanes = {model: _Lane(capacity, free=capacity.held) for model, capacity in capacities.items()}
        self._models: dict[int, str] = {}  # unresolved id -> model

    @property
    def waiting(self) -> int:
        """Return the number of sequences that wait for slots."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def slots_in_use(self) -> int:
        """Return the number of slots that are taken, all models together."""
        return sum(lane.capacity.held - lane.free for lane in self._lanes.values())

    @property
    def idle(self) -> bool:
        """Return whether no sequence waits, runs or is about to leave."""
        return not self._models and not any(lane.leaving for lane in self._lanes.values())

    def running(self) -> Iterator[Sequence]:
        """Yield the unresolved sequences that hold slots."""
        for lane in self._lanes.values():
            yield from lane.joined.values()

    def queued(self) -> Iterator[int]:
        """Yield the ids of the sequences that wait for slots."""
        for lane in self._lanes.values():
            yield from lane.waiting

    def cached(self, sequence: Sequence) -> int:
        """Return the tokens that the slots of a running sequence hold: of its prompt, and of its steps."""
        left = self._lanes[sequence.model].prefilling.get(sequence.id, 0)
        return sequence.slots * (sequence.prefill - left + self.done(sequence.id))

    def deadline(self) -> float | None:
        """Return the earliest deadline, or None if nothing is there."""
        every = (lane.waiting | lane.joined for lane in self._lanes.values())
        return min((sequence.deadline for lane in every for sequence in lane.values()), default=None)

    def step_seconds(self, model: str) -> float | None:
        """Return the recent time of a turn in which a model stepped, seconds; None before a few."""
        return self._lanes[model].step_seconds

    def sample_seconds(self, model: str) -> float | None:
        """Return the recent share of a sample in the time of a step of a model, seconds."""
        return self._lanes[model].sample_seconds

    def submit(self, sequence: Sequence) -> None:
        """Admit a sequence or refuse it at once.

        Raises:
            ProblemError: `overloaded`, with the time that its model's queue needs to drain.
        """
        lane = self._lanes[sequence.model]
        if sequence.id in self._models or sequence.steps < 1 or not 1 <= sequence.slots <= lane.capacity.slots:
            raise ValueError(f"Sequence {sequence.id} is there already, has no step, or fits into no slots.")
        if self.waiting >= self.max_waiting:
            wait, detail = retry_after(self.wait_seconds(sequence.model)), "The queue of the generators is full."
            raise ProblemError("overloaded", detail, self.max_waiting, self.waiting + 1, [], wait)
        lane.waiting[sequence.id] = sequence
        self._models[sequence.id] = sequence.model

    def holds(self, sequence_id: int) -> bool:
        """Return whether a sequence waits or runs."""
        return sequence_id in self._models

    def position(self, sequence_id: int) -> int | None:
        """Return the number of sequences ahead in the queue of its model, None if it does not wait."""
        model = self._models.get(sequence_id)
        waiting = self._lanes[model].waiting if model is not None else {}
        return list(waiting).index(sequence_id) if sequence_id in waiting else None

    def done(self, sequence_id: int) -> int:
        """Return the steps that a sequence has behind it."""
        model = self._models.get(sequence_id)
        lane = self._lanes[model] if model is not None else None
        if lane is None or sequence_id not in lane.live:
            return 0
        return lane.joined[sequence_id].steps - lane.live[sequence_id]

    def wait_seconds(self, model: str) -> float | None:
        """Return the time until a model has finished all that it has, estimated; None before a few steps."""
        lane = self._lanes[model]
        if lane.step_seconds is None:
            return None
        work = sum(sequence.steps * sequence.slots for sequence in lane.waiting.values())
        work += sum((sequence.steps - self.done(id_)) * sequence.slots for id_, sequence in lane.joined.items())
        return lane.step_seconds * work / lane.capacity.slots

    def cancel(self, sequence_id: int) -> bool:
        """Give up a sequence, whose slots are free at the next turn; False if it is resolved already."""
        model = self._models.pop(sequence_id, None)
        if model is None:
            return False
        lane = self._lanes[model]
        if lane.waiting.pop(sequence_id, None) is None:
            lane.leaving[sequence_id] = lane.joined.pop(sequence_id)
            lane.prefilling.pop(sequence_id, None)
            lane.live.pop(sequence_id, None)
        return True

    def plan(self, now: float) -> Turn:
        """Choose the next turn."""
        expired = [
            sequence
            for lane in self._lanes.values()
            for sequence in (*lane.waiting.values(), *lane.joined.values())
            if sequence.deadline <= now
        ]
        for sequence in expired:
            self.cancel(sequence.id)
        leaves: list[Sequence] = []
        joins: list[Sequence] = []
        prefills: list[Chunk] = []
        steps: list[Step] = []
        for model, lane in self._lanes.items():
            leaves += lane.leaving.values()
            lane.free += sum(sequence.slots for sequence in lane.leaving.values())
            lane.leaving.clear()
            joins += self._join(lane)
            prefills += self._prefill(lane)
            if lane.live:
                steps.append(Step(model, tuple(self._next(lane))))
        return Turn(tuple(expired), tuple(leaves), tuple(joins), tuple(prefills), tuple(steps), now)

    def complete(self, turn: Turn, now: float) -> list[Sequence]:
        """Say that a turn has been carried out; return the sequences that finished, whose slots are free now.

        A sequence that was cancelled meanwhile is not among them.
        """
        finished: list[Sequence] = []
        for model, sequences in turn.steps:
            lane = self._lanes[model]
            lane.turns.append((now - turn.started, len(sequences)))
            for sequence in sequences:
                left = lane.live.pop(sequence.id, None)
                if left is None:  # cancelled meanwhile
                    continue
                if left > 1:
                    lane.live[sequence.id] = left - 1  # behind those that did not step
                    continue
                finished.append(lane.joined.pop(sequence.id))
                del self._models[sequence.id]
                lane.free += sequence.slots
        return finished

    def _join(self, lane: _Lane) -> list[Sequence]:
        taken: list[Sequence] = []
        for sequence in lane.waiting.values():
            if sequence.slots > lane.free:
                break
            lane.free -= sequence.slots
            taken.append(sequence)
        for sequence in taken:
            del lane.waiting[sequence.id]
            lane.joined[sequence.id] = sequence
            if sequence.prefill:
                lane.prefilling[sequence.id] = sequence.prefill
            else:
                lane.live[sequence.id] = sequence.steps
        return taken

    def _next(self, lane: _Lane) -> Iterator[Sequence]:
        """Yield the live sequences of the next step, those that waited longest first."""
        slots = lane.capacity.slots
        for sequence_id in lane.live:
            sequence = lane.joined[sequence_id]
            if sequence.slots > slots:
                break
            slots -= sequence.slots
            yield sequence

    def _prefill(self, lane: _Lane) -> list[Chunk]:
        chunks: list[Chunk] = []
        budget = lane.capacity.chunk
        for sequence_id, left in list(lane.prefilling.items()):
            tokens = min(left, budget)
            if not tokens:
                break
            budget -= tokens
            chunks.append(Chunk(lane.joined[sequence_id], tokens))
            lane.prefilling[sequence_id] = left - tokens
            if tokens == left:
                del lane.prefilling[sequence_id]
                lane.live[sequence_id] = lane.joined[sequence_id].steps
        return chunks
