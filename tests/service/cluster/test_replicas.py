"""One tokenizer replica without a cluster: its answers, its refusals and its health."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from starlette.types import Receive, Scope, Send

from kernels.runtime import jit
from model.bundle import save_bundle, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.api import log, shedding
from service.api.errors import REFUSE_ALIKE, problem_response
from service.chunks import ChunkInput
from service.cluster import replicas
from service.cluster.chunk_memory import ChunkPlaces, Memory, outcome, store
from service.cluster.generators import Generator
from service.cluster.ray_backend import HandleCall
from service.cluster.replicas import Ingress, Tokenizer
from service.engine.language_model_lane import LanguageModelLane
from service.errors import ProblemError
from service.metrics.tokenizer import KernelMetrics
from service.scheduling.executor import DeviceFault
from service.settings import Settings
from service.types import Encoded

PIXELS = np.zeros((1, 16, 16, 3), np.uint8)


class EndedTokenizer(Tokenizer):
    """A replica that Ray ends, and not the garbage collector a second time."""

    end = Tokenizer.__del__

    def __del__(self) -> None: ...  # type: ignore[override]


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[EndedTokenizer]:
    save_bundle(tmp_path / "tiny", OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    replica = EndedTokenizer(Settings(bundles=(tmp_path / "tiny",), device="cpu", torch_threads=1))
    yield replica
    await replica.end()


async def encode(replica: EndedTokenizer, model: str) -> Any:
    [answer] = await replica.run("encode", [HandleCall((model, PIXELS, "tokens"), None, 60)])
    return answer


def break_engine(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(OmniTokenizer, "encode_both", fail)


async def test_a_replica_answers_with_its_bundle(replica: EndedTokenizer) -> None:
    assert [card.id for card in await replica.models()] == ["tiny"]
    answer = await encode(replica, "tiny")
    assert isinstance(answer, Encoded)
    assert answer.tokens is not None
    assert answer.tokens.shape == (1, 2, 2)
    await replica.check_health()


async def test_chunks_in_shared_memory_give_the_codes_of_the_whole(replica: EndedTokenizer) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 16, 16, 3), np.uint8)
    answer = await replica.run("encode", [HandleCall(("tiny", pixels, "tokens"), None, 60)])
    parts, state = [], None
    for start, end in ((0, 5), (5, 9), (9, 13)):
        places, out = ChunkPlaces(ChunkInput(pixels[start:end], state, final=end == 13)), Memory()
        call = HandleCall(("tiny", places.asking(out)), None, 60)
        done = outcome(out, await replica.run_in_place("encode_chunk", call))
        parts.append(done.array)
        state = done.state
    np.testing.assert_array_equal(np.concatenate(parts), answer[0].tokens)


async def test_a_chunk_of_another_node_has_no_answer(replica: EndedTokenizer) -> None:
    out = Memory()
    asked = ChunkPlaces(ChunkInput(PIXELS)).asking(out)  # whose arrays are gone
    assert await replica.run_in_place("encode_chunk", HandleCall(("tiny", asked), None, 60)) is None


async def test_a_state_over_its_limit_is_refused(replica: EndedTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "_max_state_bytes", 16)
    [answer] = await replica.run("encode_chunk", [HandleCall(("tiny", ChunkInput(PIXELS)), None, 60)])
    assert isinstance(answer, ProblemError)
    assert answer.code == "too-many-tokens"


async def test_a_cancelled_chunk_writes_to_nobody_elses_memory(
    replica: EndedTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def late(*arguments: Any) -> Any:
        begun.set()
        go.wait(60)
        try:
            return store(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr(replicas, "store", late)
    places, out = ChunkPlaces(ChunkInput(PIXELS)), Memory()
    call = HandleCall(("tiny", places.asking(out)), None, 60)
    doing = asyncio.create_task(replica.run_in_place("encode_chunk", call))
    assert await asyncio.to_thread(begun.wait, 60)
    doing.cancel()
    await asyncio.wait([doing])
    others = [Memory() for _ in range(64)]  # by the numbers of what the call has closed
    go.set()
    assert await asyncio.to_thread(ended.wait, 60)
    assert [other for other in others if os.fstat(other.descriptor).st_size] == []


async def test_refusals_are_answers(replica: EndedTokenizer) -> None:
    answer = await encode(replica, "none")
    assert isinstance(answer, ProblemError)
    assert answer.code == "unknown-model"


async def test_a_failure_is_an_answer_and_leaves_the_replica_healthy(
    replica: EndedTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_engine(monkeypatch, ValueError("a secret of the implementation"))
    answer = await encode(replica, "tiny")
    assert isinstance(answer, ProblemError)
    assert answer.code == "internal"
    assert "secret" not in answer.detail
    await replica.check_health()


async def test_a_replica_that_ends_refuses_what_still_comes(replica: EndedTokenizer) -> None:
    await replica.end()
    answer = await encode(replica, "tiny")
    assert isinstance(answer, ProblemError)
    assert answer.code == "draining"


class Ended(Ingress):
    """An ingress replica that Ray ends, and not the garbage collector a second time."""

    end = Ingress.__del__

    def __del__(self) -> None: ...  # type: ignore[override]


async def test_an_ingress_replica_starts_its_workers_and_ends_them() -> None:
    handle: Any = SimpleNamespace()
    ingress = Ended(handle, Settings(bundles=(), media_workers=1))
    app = await ingress.__serve_build_asgi_app__()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://omnitok") as http:
        assert (await http.get("/health/live")).json() == {"status": "live"}
        assert (await http.get("/limits")).status_code == 200
        await ingress.end()
        refused = await http.get("/health/ready")
    assert (refused.status_code, refused.json()["code"]) == (503, "not-ready")
    assert "media workers" in refused.json()["detail"]


async def test_the_end_of_an_ingress_replica_logs_what_it_shed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(scope: Scope, receive: Receive, send: Send) -> None:
        response = problem_response(ProblemError("overloaded", "Full.", retry_after_seconds=2.0), "first", close=False)
        response.headers[REFUSE_ALIKE] = "60000"
        await response(scope, receive, send)

    monkeypatch.setattr(shedding, "LOG_SECONDS", 3600.0)
    monkeypatch.setattr(shedding, "_tally", None)
    handle: Any = SimpleNamespace()
    ingress = Ended(handle, Settings(bundles=(), media_workers=1, log=tmp_path / "log"))
    try:
        await ingress.__serve_build_asgi_app__()
        transport = httpx.ASGITransport(shedding.Shedding(full))
        async with httpx.AsyncClient(transport=transport, base_url="http://omnitok") as http:
            for _ in range(3):
                await http.post("/encode", content=b"pixels")
        await ingress.end()
    finally:
        log.configure()
    [line] = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (line["event"], line["route"], line["requests"]) == ("refused", "/encode", 2)


async def test_a_broken_device_fails_the_health_check(replica: EndedTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    break_engine(monkeypatch, torch.AcceleratorError("broken"))
    with pytest.raises(DeviceFault):
        await encode(replica, "tiny")
    with pytest.raises(RuntimeError, match="unusable"):
        await replica.check_health()


@pytest.mark.parametrize("generator_replicas", [0, 1])
async def test_kernels_of_any_warm_up_are_not_late(
    generator_replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_bundle(tmp_path / "tiny", OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    network = make_generator(GENERATOR_CONFIGS["lm-debug"]).eval()
    save_generator(tmp_path / "lm", network, "Random weights for tests.", "a" * 64, ("ant", "bee", "cow", "dog"))
    kernels: set[tuple[int, str]] = set()
    late: list[int] = []
    warm_up = LanguageModelLane.warm_up

    def compile_and_warm_up(lane: LanguageModelLane) -> None:
        kernels.add((0, "of a step"))
        warm_up(lane)

    monkeypatch.setattr(jit, "_compiled", kernels)
    monkeypatch.setattr(LanguageModelLane, "warm_up", compile_and_warm_up)
    monkeypatch.setattr(KernelMetrics, "late", lambda self, count: late.append(count))
    settings = Settings(bundles=(tmp_path / "tiny",), generators=(tmp_path / "lm",), device="cpu", torch_threads=1)
    replica: EndedTokenizer | Generator = Generator(settings) if generator_replicas else EndedTokenizer(settings)
    await replica.check_health()
    kernels.add((0, "of a request"))
    await replica.check_health()
    await replica.end() if isinstance(replica, EndedTokenizer) else replica.__del__()
    assert late == [0, 1]
