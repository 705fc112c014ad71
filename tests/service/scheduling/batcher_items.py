"""Items for tests of the batcher, and a batcher that has run some."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.flow import Flow, Priority
from service.scheduling.batcher import Batcher
from service.scheduling.item import Item, Key
from service.types import TokenizerKey


class Step(NamedTuple):
    """A key of a generator's: no pixels in it."""

    model: str
    op: str = "generate"
    frames: int = 1


KEYS: list[Key] = [
    TokenizerKey("m", "encode", "pixels", (1, 64, 64)),
    TokenizerKey("m", "encode", "pixels", (17, 64, 64)),
    TokenizerKey("m", "decode", "tokens", (1, 64, 64)),
    Step("n"),
]


def item(
    number: int, key: Key, cost: int, deadline: float = 100.0, caller: Any = None, priority: Priority = "interactive"
) -> Item:
    return Item(number, key, cost, deadline, None, Flow(caller, priority))


def measured(*batches: tuple[int, float], **bounds: float) -> Batcher:
    """A batcher that ran batches of so many tokens in so many seconds each, up to time 0."""
    batcher = Batcher(10, 8, 1000, **bounds)
    now = -sum(seconds for _, seconds in batches)
    for number, (cost, seconds) in enumerate(batches):
        batcher.submit([item(-1 - number, KEYS[0], cost)], now)
        batcher.next_batch(now)
        now += seconds
        batcher.complete(now)
    return batcher
