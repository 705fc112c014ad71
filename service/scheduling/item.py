"""Items of work that wait for a batch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from service.flow import NOBODY, Flow


class Key(Protocol):
    """The key that items of one batch share: any immutable value, compared and hashed by its content."""

    @property
    def op(self) -> str:
        """Return the name of the operation, a label of metrics."""
        ...

    @property
    def model(self) -> str:
        """Return the name of the bundle, a label of metrics."""
        ...

    @property
    def frames(self) -> int:
        """Return the frames of an item, which are counted."""
        ...

    def __hash__(self) -> int: ...


@dataclass(slots=True, eq=False)
class Item:
    """One request. It never changes; that is not enforced, since this would double the time to make one.

    Args:
        id: unique among the items of one batcher.
        key: what it may share a batch with.
        cost: latent positions, or another measure of work, at least 1.
        deadline: time after which it must not start, seconds on the caller's clock.
        payload: handed on untouched.
        flow: whose share it takes, and how urgent it is.
        group: a number that items of one message have in common; they run together as far as a batch holds them.
    """

    id: int
    key: Key
    cost: int
    deadline: float
    payload: Any = None
    flow: Flow = NOBODY
    group: int | None = None

    @property
    def caller(self) -> Hashable:
        """Return whose share it takes."""
        return self.flow.caller
