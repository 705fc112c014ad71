"""Generators in a replica, and the way to them with lost, late and busy replicas; no cluster runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from model.bundle import save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from service.cluster.generators import Generator, RayGeneratorBackend
from service.errors import ProblemError
from service.settings import Settings
from service.types import Generated, GenerateJob, GenerateParams, JobProgress

JOB = GenerateJob("lm", 1, 1, GenerateParams(), 7)
MADE = Generated(np.zeros((1, 4, 4), np.int32), None)
HALF, STARTED = JobProgress(8, 16), JobProgress(0, 16, 0)


@dataclass
class Stream:
    """Answers from a script: items, exceptions to raise, or an event to wait for."""

    script: list[Any]
    cancelled: bool = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for line in self.script:
            if isinstance(line, asyncio.Event):
                await line.wait()
            elif isinstance(line, Exception) and not isinstance(line, ProblemError):
                raise line
            else:
                yield line

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Handle:
    """Gives one stream a call."""

    streams: list[Stream]
    left: list[float] = field(default_factory=list)

    @property
    def generate(self) -> Handle:
        return self

    def options(self, *, stream: bool) -> Handle:
        assert stream
        return self

    def remote(self, job: GenerateJob, seconds: float, trace: str | None) -> Stream:
        self.left.append(seconds)
        return self.streams[len(self.left) - 1]


class Retries:
    count = 0

    def retried(self) -> None:
        self.count += 1


def make(*scripts: list[Any], **settings: Any) -> tuple[RayGeneratorBackend, Handle, Retries]:
    handle, retries = Handle([Stream(script) for script in scripts]), Retries()
    arguments: Any = (handle, Settings(bundles=(), **settings), retries)
    return RayGeneratorBackend(*arguments), handle, retries


async def test_progress_comes_before_the_sample() -> None:
    backend, _, _ = make([STARTED, HALF, MADE])
    heard: list[JobProgress] = []
    assert await backend.generate(JOB, heard.append) is MADE
    assert heard == [STARTED, HALF]


@pytest.mark.parametrize("first", [[HALF, ActorDiedError()], [ProblemError("draining", "This replica ends.")]])
async def test_a_lost_replica_costs_a_retry(first: list[Any]) -> None:
    backend, handle, retries = make(first, [MADE])
    assert await backend.generate(JOB, lambda progress: None, seconds=9) is MADE
    assert retries.count == 1
    assert handle.left[1] < handle.left[0] <= 9


@pytest.mark.parametrize(
    ("line", "code", "seconds"),
    [
        (ProblemError("gpu-memory", "The sample does not fit."), "gpu-memory", 60.0),
        (BackPressureError(1, 1), "overloaded", 60.0),
        (asyncio.Event(), "deadline-exceeded", 0.5),
    ],
)
async def test_refusals_come_through(line: Any, code: str, seconds: float) -> None:
    backend, handle, _ = make([STARTED, line])
    with pytest.raises(ProblemError) as refused:
        await backend.generate(JOB, lambda progress: None, seconds=seconds)
    assert refused.value.code == code
    assert handle.streams[0].cancelled == (code == "deadline-exceeded")


async def test_a_caller_that_leaves_ends_the_stream() -> None:
    backend, handle, _ = make([STARTED, asyncio.Event()])
    heard = asyncio.Event()
    task = asyncio.create_task(backend.generate(JOB, lambda progress: heard.set()))
    await heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.streams[0].cancelled


async def test_no_time_left_is_not_all_the_time() -> None:
    backend, _, _ = make([STARTED, asyncio.Event()])
    with pytest.raises(ProblemError) as refused:
        async with asyncio.timeout(60):
            await backend.generate(JOB, lambda progress: None, seconds=0.0)
    assert refused.value.code == "deadline-exceeded"


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Generator]:
    torch.manual_seed(0)
    network = make_generator(GENERATOR_CONFIGS["lm-debug"]).eval()
    save_generator(tmp_path / "lm", network, "Random weights for tests.", "a" * 64, ("ant", "bee", "cow", "dog"))
    replica = Generator(Settings(bundles=(), generators=(tmp_path / "lm",), device="cpu", torch_threads=1))
    yield replica
    replica.__del__()


async def answers(replica: Generator, job: GenerateJob) -> list[Any]:
    return [news async for news in replica.generate(job)]


async def test_a_replica_streams_progress_and_the_sample(replica: Generator) -> None:
    assert [card.id for card in await replica.generators()] == ["lm"]
    *progress, made = await answers(replica, JOB)
    assert all(isinstance(news, JobProgress) for news in progress)
    assert isinstance(made, Generated)
    assert made.tokens is not None
    assert made.tokens.shape == (1, 4, 4)
    await replica.check_health()


async def test_a_failure_is_an_answer_and_leaves_the_replica_healthy(
    replica: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise ValueError("a secret of the implementation")

    monkeypatch.setattr("service.engine.language_model_lane.LanguageModelLane.step", fail)
    problem = (await answers(replica, JOB))[-1]
    assert isinstance(problem, ProblemError)
    assert problem.code == "internal"
    assert "secret" not in problem.detail
    await replica.check_health()


async def test_a_reader_that_leaves_cancels_the_sample(replica: Generator) -> None:
    stream: Any = replica.generate(GenerateJob("lm", 1, 5, GenerateParams(), 7))
    async for _ in stream:
        break
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if "Mailbox" in repr(task)], "nobody waits for its progress"
    assert isinstance((await answers(replica, JOB))[-1], Generated)
