"""The calls of one ingress process: which tokenizer has which, and which slots each holds. No sockets, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from service.link.slots import Slot


@dataclass(eq=False, slots=True)
class Call:
    """One call.

    Args:
        id: unique among the calls of one dispatcher.
        model: id of the bundle that must do it.
        cost: latent positions.
        slots: of the arena; they belong to the call until it is over.
        tries: tokenizers that it may still be lost with.
        payload: handed on untouched.

    Attributes:
        peer: the tokenizer that has it, None while it waits for one.
        abandoned: whether its caller has left.
    """

    id: int
    model: str
    cost: int
    slots: tuple[Slot, ...]
    tries: int
    payload: Any = None
    peer: int | None = None
    abandoned: bool = False


@dataclass
class _Peer:
    models: frozenset[str]
    open: bool = True
    cost: int = 0
    turn: int = 0
    calls: dict[int, Call] = field(default_factory=dict)


class Loss(NamedTuple):
    """The calls of a tokenizer that was lost: those that another one must do, and those that have no try left."""

    moved: list[Call]
    failed: list[Call]


class Dispatcher:
    """A dispatcher of each call to the tokenizer with the fewest outstanding positions, again if that one is lost.

    A slot is free as soon as no tokenizer can read it: its call was answered, or the socket to its tokenizer closed.
    A call whose `peer` is None after a method returned it waits until `connect` returns it.

    Args:
        give_back: frees a slot.
    """

    def __init__(self, give_back: Callable[[Slot], None]) -> None:
        self._give_back = give_back
        self._peers: dict[int, _Peer] = {}
        self._waiting: dict[int, Call] = {}
        self._calls: dict[int, Call] = {}
        self._turns = 0

    @property
    def waiting(self) -> int:
        """Return the number of calls that no tokenizer has."""
        return len(self._waiting)

    @property
    def outstanding(self) -> int:
        """Return the number of calls that are not over, abandoned ones included."""
        return len(self._calls)

    def serves(self, model: str) -> bool:
        """Return whether a tokenizer is there for a bundle."""
        return any(peer.open and model in peer.models for peer in self._peers.values())

    def connect(self, peer: int, models: Iterable[str]) -> list[Call]:
        """Add a tokenizer; return the calls that waited and have a `peer` now."""
        self._peers[peer] = _Peer(frozenset(models))
        waiting, self._waiting = self._waiting, {}
        for call in waiting.values():
            self._place(call)
        return [call for call in waiting.values() if call.peer is not None]

    def submit(self, call: Call) -> None:
        """Give a call to a tokenizer, or let it wait for one."""
        if call.id in self._calls:
            raise ValueError(f"The call {call.id} exists already.")
        self._calls[call.id] = call
        self._place(call)

    def find(self, peer: int, call_id: int) -> Call | None:
        """Return the call that a tokenizer has, or None if it has no such call."""
        return self._peers[peer].calls.get(call_id)

    def finish(self, call: Call) -> None:
        """End a call that its tokenizer answered; its slots are free."""
        self._leave(call)
        self._end(call)

    def cancel(self, call: Call) -> int | None:
        """Abandon a call; return the tokenizer that must be asked to drop it. Its slots stay until that one answers."""
        if call.id not in self._calls or call.abandoned:
            return None
        if call.peer is None:
            del self._waiting[call.id]
            self._end(call)
            return None
        call.abandoned = True
        return call.peer

    def retire(self, peer: int) -> None:
        """Send a tokenizer nothing more; it answers what it has."""
        self._peers[peer].open = False

    def move(self, call: Call) -> Call | None:
        """Give a call that its tokenizer sent back to another one; None if it was abandoned and is over."""
        self._leave(call)
        return self._again(call)

    def disconnect(self, peer: int) -> Loss:
        """Forget a tokenizer whose socket closed."""
        calls = self._peers.pop(peer).calls
        loss = Loss([], [])
        for call in calls.values():
            call.peer = None
            call.tries -= 1
            if call.tries < 1 and not call.abandoned:
                self._end(call)
                loss.failed.append(call)
            elif self._again(call) is not None:
                loss.moved.append(call)
        return loss

    def give_up(self) -> list[Call]:
        """Take out the calls that wait; their slots belong to the caller now."""
        calls, self._waiting = list(self._waiting.values()), {}
        for call in calls:
            del self._calls[call.id]
        return calls

    def _again(self, call: Call) -> Call | None:
        if call.abandoned:
            self._end(call)
            return None
        self._place(call)
        return call

    def _place(self, call: Call) -> None:
        best = None
        for number, peer in self._peers.items():
            if peer.open and call.model in peer.models:
                rank = (peer.cost, peer.turn, number)
                best = rank if best is None or rank < best else best
        if best is None:
            self._waiting[call.id] = call
            return
        call.peer = best[2]
        peer = self._peers[call.peer]
        peer.calls[call.id] = call
        peer.cost += call.cost
        self._turns += 1
        peer.turn = self._turns  # among equals, the one that waited longest

    def _leave(self, call: Call) -> None:
        if call.peer is None:
            raise ValueError(f"No tokenizer has the call {call.id}.")
        peer = self._peers[call.peer]
        del peer.calls[call.id]
        peer.cost -= call.cost
        call.peer = None

    def _end(self, call: Call) -> None:
        del self._calls[call.id]
        for slot in call.slots:
            self._give_back(slot)
