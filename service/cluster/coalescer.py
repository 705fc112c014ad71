"""Calls that travel together: a call of another process costs more than the work of an item in it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


@dataclass(eq=False)
class _Entry(Generic[Item]):
    item: Item
    size: int
    answer: asyncio.Future[Any]


@dataclass
class _Queue(Generic[Item]):
    waiting: deque[_Entry[Item]] = field(default_factory=deque)
    outstanding: int = 0


class Coalescer(Generic[Item]):
    """Calls that items of one kind share while enough calls of that kind are on their way; nothing waits before that.

    Args:
        send: makes one call of several items of one kind; returns an answer for each, in order.
        outstanding: calls on their way at a time, for each kind.
        items, size: the most of one call; an item that is larger goes alone.
    """

    def __init__(
        self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Any]]], outstanding: int, items: int, size: int
    ) -> None:
        self._send, self._outstanding, self._items, self._size = send, outstanding, items, size
        self._queues: dict[Hashable, _Queue[Item]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Return the number of items that no call has taken yet."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    async def call(self, kind: Hashable, item: Item, size: int) -> Any:
        """Return the answer to an item.

        Args:
            kind: items of one kind take about as long as each other, so that none waits for its company.
            item: what to send.
            size: of the item and its answer, bytes.

        Raises:
            Exception: what `send` raised for the call that took the item.
            RuntimeError: the call has not an answer for each of its items.
        """
        entry = _Entry(item, size, asyncio.get_running_loop().create_future())
        queue = self._queues.setdefault(kind, _Queue())
        queue.waiting.append(entry)
        self._advance(kind, queue)
        try:
            return await entry.answer
        except asyncio.CancelledError:
            if entry in queue.waiting:
                queue.waiting.remove(entry)
            raise

    def _advance(self, kind: Hashable, queue: _Queue[Item]) -> None:
        while queue.waiting and queue.outstanding < self._outstanding:
            queue.outstanding += 1
            task = asyncio.create_task(self._carry(kind, queue, self._take(queue)))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        if not queue.outstanding:
            self._queues.pop(kind, None)

    def _take(self, queue: _Queue[Item]) -> list[_Entry[Item]]:
        taken = [queue.waiting.popleft()]
        size = taken[0].size
        while queue.waiting and len(taken) < self._items and size + queue.waiting[0].size <= self._size:
            taken.append(queue.waiting.popleft())
            size += taken[-1].size
        return taken

    async def _answers(self, entries: list[_Entry[Item]]) -> Sequence[Any]:
        answers = await self._send([entry.item for entry in entries])
        if len(answers) != len(entries):  # whose is whose is not known then
            raise RuntimeError(f"A call of {len(entries)} items has {len(answers)} answers.")
        return answers

    async def _carry(self, kind: Hashable, queue: _Queue[Item], entries: list[_Entry[Item]]) -> None:
        call = asyncio.ensure_future(self._answers(entries))

        def left(_: asyncio.Future[Any]) -> None:
            if all(entry.answer.cancelled() for entry in entries):
                call.cancel()  # nobody waits for any of it

        for entry in entries:
            entry.answer.add_done_callback(left)
        outcomes: tuple[Sequence[Any] | BaseException] = await asyncio.gather(call, return_exceptions=True)
        [answers] = outcomes
        queue.outstanding -= 1
        self._advance(kind, queue)
        for index, entry in enumerate(entries):
            if entry.answer.done():
                continue
            if isinstance(answers, BaseException):
                entry.answer.set_exception(answers)
            else:
                entry.answer.set_result(answers[index])
