"""The ingress with a lost, busy or late tokenizer replica; the handle is scripted, no cluster runs."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError
from waiting import until

from service.chunks import ChunkInput, ChunkOutput, ClipState
from service.cluster import chunk_memory, remote
from service.cluster.chunk_memory import PlacedOutput, load, store
from service.cluster.ray_backend import HandleCall, RayBackend
from service.cluster.remote import CARDS_SECONDS
from service.errors import ProblemError
from service.scheduling.executor import DeviceFault
from service.settings import Settings
from service.types import Decoded, Timing

PIXELS = np.zeros((1, 8, 8, 3), np.uint8)
SPENT_SECONDS = 0.05
ANSWER = Decoded(PIXELS, Timing(0, 0, 1))
LOST = [
    ActorDiedError(),
    ActorUnavailableError("gone", None),
    WorkerCrashedError(),
    NodeDiedError("gone"),
    ObjectLostError("0" * 40, None, ""),
    ReplicaUnavailableError("gone"),
    RayTaskError("f", "traceback", DeviceFault("broken")).as_instanceof_cause(),
]


@dataclass
class Response:
    work: Coroutine[Any, Any, Any]
    cancelled: bool = False

    def __await__(self) -> Any:
        return self.work.__await__()

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Handle:
    """Answers calls from a script: results, exceptions to raise, an event to wait for, or a function of a chunk."""

    script: list[Any]
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)

    by_reference: list[bool] = field(default_factory=lambda: [True])

    def __getattr__(self, name: str) -> Handle:
        return self

    def options(self, *, _by_reference: bool) -> Handle:
        self.by_reference.append(_by_reference)
        return self

    def remote(self, *arguments: Any) -> Response:
        self.calls.append(arguments)
        self.responses.append(Response(self._play(self.script[len(self.calls) - 1], arguments)))
        return self.responses[-1]

    async def _play(self, line: Any, arguments: tuple[Any, ...]) -> Any:
        if isinstance(line, asyncio.Event):
            await line.wait()
        if isinstance(line, BaseException) and not isinstance(line, ProblemError):
            raise line
        if callable(line):
            return line(arguments[1])
        return [line for _ in arguments[1]] if arguments else line


class Retries:
    count = 0

    def retried(self) -> None:
        self.count += 1

    def called(self, way: str, items: int = 1) -> None: ...


class Link:
    """A link to a tokenizer of this node."""

    def takes(self, model: str) -> bool:
        return True


def make(*script: Any, link: Link | None = None, **settings: Any) -> tuple[RayBackend, Handle, Retries]:
    handle, retries = Handle(list(script)), Retries()
    arguments: Any = (handle, Settings(bundles=(), **settings), retries, link)
    return RayBackend(*arguments), handle, retries


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
async def test_a_lost_replica_costs_a_retry(error: Exception) -> None:
    backend, handle, retries = make(error, error, ANSWER)
    assert await backend.reconstruct("m", PIXELS) is ANSWER
    assert retries.count == 2
    assert handle.calls[2][1][0].seconds < handle.calls[0][1][0].seconds, "the time left shrinks"


async def test_a_replica_that_drains_costs_a_retry() -> None:
    backend, _, retries = make(ProblemError("draining", "This replica is shutting down."), ANSWER)
    assert await backend.encode("tiny", PIXELS, "tokens") == ANSWER
    assert retries.count == 1


async def test_tries_are_bounded() -> None:
    backend, handle, _ = make(*[ActorDiedError()] * 3, ANSWER)
    with pytest.raises(ProblemError) as failed:
        await backend.reconstruct("m", PIXELS)
    assert failed.value.code == "not-ready"
    assert len(handle.calls) == 3


@pytest.mark.parametrize(
    ("line", "slug"),
    [
        (ProblemError("gpu-memory", "The request does not fit into memory."), "gpu-memory"),
        (BackPressureError(1, 1), "overloaded"),
        (ObjectStoreFullError("full"), "overloaded"),
    ],
)
async def test_refusals_come_through_and_are_not_repeated(line: Exception, slug: str) -> None:
    backend, handle, _ = make(line)
    with pytest.raises(ProblemError) as refused:
        await backend.decode("m", np.zeros((1, 1, 1), np.int32), (1, 8, 8))
    assert refused.value.code == slug
    assert len(handle.calls) == 1


async def test_the_deadline_ends_and_cancels_the_call() -> None:
    backend, handle, _ = make(asyncio.Event(), request_seconds=0.5)
    with pytest.raises(ProblemError) as late:
        await backend.encode("m", PIXELS, "tokens")
    assert late.value.code == "deadline-exceeded"
    await until(lambda: handle.responses[0].cancelled)


async def test_a_cancelled_caller_cancels_the_call() -> None:
    backend, handle, _ = make(asyncio.Event())
    task = asyncio.create_task(backend.encode("m", PIXELS, "tokens"))
    await until(lambda: bool(handle.calls))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: handle.responses[0].cancelled)


async def test_a_crowd_shares_calls_until_one_is_lost() -> None:
    backend, handle, _ = make(asyncio.Event(), ActorDiedError(), *[ANSWER] * 9)
    first = asyncio.create_task(backend.reconstruct("m", PIXELS))
    await until(lambda: len(handle.calls) == 1)
    second = asyncio.create_task(backend.reconstruct("m", PIXELS))
    crowd = [asyncio.create_task(backend.reconstruct("m", PIXELS)) for _ in range(5)]
    assert await asyncio.gather(second, *crowd) == [ANSWER] * 6
    sizes = [len(calls) for _, calls in handle.calls]
    assert sorted(sizes) == [1, 1, 1, 5], "one waits, one is lost and repeated alone, five share a call"
    handle.script[0].set()
    assert isinstance(await first, asyncio.Event)


def count_up(call: HandleCall) -> PlacedOutput:
    """Do a chunk as a tokenizer of this node does: add 1 to all that its state holds."""
    _, asked = call.arguments
    assert len(pickle.dumps(call)) < 4000, "no array is in the message, or streams fill the object store"
    chunk = load(asked)
    arrays = (PIXELS,) if chunk.state is None else tuple(1 + array for array in chunk.state.arrays)
    return store(asked.out, ChunkOutput(chunk.array, ClipState(len(arrays), arrays)), 2**20)


async def test_chunks_of_this_node_are_in_shared_memory_whatever_replica_is_lost() -> None:
    backend, _, retries = make(count_up, ActorDiedError(), count_up, count_up, link=Link())
    frames, state = np.zeros((4, 64, 64, 3), np.uint8), None
    for turn in range(3):
        done = await backend.encode_chunk("m", ChunkInput(frames, state))
        state = done.state
        np.testing.assert_array_equal(done.array, frames)
        np.testing.assert_array_equal(state.arrays[0], PIXELS + turn)
    assert retries.count == 1


async def test_large_chunks_are_written_to_memory_on_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, write = set[bool](), chunk_memory.write

    def noted(*arguments: Any) -> Any:
        if arguments[1][0] is PIXELS:  # the chunk's own
            threads.add(threading.current_thread() is threading.main_thread())
        return write(*arguments)

    monkeypatch.setattr(chunk_memory, "write", noted)
    for bound, on_loop in ((PIXELS.nbytes, True), (PIXELS.nbytes - 1, False)):
        monkeypatch.setattr("service.offload.COPY_INLINE_BYTES", bound)
        threads.clear()
        backend, _, _ = make(count_up, link=Link())
        await backend.encode_chunk("m", ChunkInput(PIXELS))
        assert threads == {on_loop}


async def test_a_chunk_that_comes_to_another_node_is_sent_there() -> None:
    far = ChunkOutput(PIXELS, ClipState(1, (PIXELS,)))
    backend, handle, _ = make(count_up, lambda _: time.sleep(SPENT_SECONDS), far, count_up, link=Link())
    near = await backend.encode_chunk("m", ChunkInput(PIXELS))
    assert await backend.decode_chunk("m", ChunkInput(PIXELS, near.state)) is far
    assert handle.by_reference == [True, False], "which the object store would have to hold"
    asked, [sent] = handle.calls[1][1], handle.calls[2][1]
    assert sent.seconds <= asked.seconds - SPENT_SECONDS, "both have one deadline"
    _, chunk = sent.arguments
    assert type(chunk.state) is ClipState
    np.testing.assert_array_equal(chunk.state.arrays[0], PIXELS)
    back = await backend.encode_chunk("m", ChunkInput(PIXELS, far.state))
    np.testing.assert_array_equal(back.state.arrays[0], PIXELS + 1)


async def test_a_refusal_of_a_chunk_comes_through() -> None:
    backend, handle, _ = make(lambda _: ProblemError("overloaded", "The queue is full."), link=Link())
    with pytest.raises(ProblemError, match="overloaded"):
        await backend.encode_chunk("m", ChunkInput(PIXELS))
    assert len(handle.calls) == 1


async def test_cards_are_asked_for_once_by_a_crowd() -> None:
    backend, handle, _ = make(["card"])
    assert await asyncio.gather(*(backend.models() for _ in range(20))) == [["card"]] * 20
    assert len(handle.calls) == 1


async def test_cards_are_asked_for_again_so_that_readiness_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, handle, _ = make(["card"], *[ActorDiedError()] * 3)
    loop, late = asyncio.get_running_loop(), 0.0
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + late)
    assert await backend.models() == ["card"]
    late = 1.1 * CARDS_SECONDS
    with pytest.raises(ProblemError, match="not-ready"):
        await backend.models()
    assert len(handle.calls) == 4


@pytest.mark.parametrize("status", [StatusCode.UNAVAILABLE, StatusCode.CANCELLED])
async def test_a_broken_grpc_call_costs_a_retry(status: StatusCode) -> None:
    backend, _, retries = make(AioRpcError(status, Metadata(), Metadata()), ANSWER)
    assert await backend.reconstruct("m", PIXELS) is ANSWER
    assert retries.count == 1


async def test_other_grpc_errors_are_not_repeated() -> None:
    backend, handle, _ = make(AioRpcError(StatusCode.RESOURCE_EXHAUSTED, Metadata(), Metadata()), ANSWER)
    with pytest.raises(AioRpcError):
        await backend.reconstruct("m", PIXELS)
    assert len(handle.calls) == 1


async def test_replicas_that_do_not_answer_make_the_service_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CARDS_SECONDS", 0.05)
    backend, _, _ = make(asyncio.Event())
    with pytest.raises(ProblemError) as refused:
        await backend.models()
    assert refused.value.code == "not-ready"
    assert refused.value.retry_after_seconds


async def test_a_crowd_asks_replicas_that_do_not_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CARDS_SECONDS", 0.01)
    backend, handle, _ = make(*[asyncio.Event()] * 20)
    refusals = await asyncio.gather(*(backend.models() for _ in range(20)), return_exceptions=True)
    assert {refusal.code for refusal in refusals if isinstance(refusal, ProblemError)} == {"not-ready"}
    assert len(handle.calls) == 1, "each would wait for those before it"
