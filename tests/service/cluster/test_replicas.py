"""One tokenizer replica without a cluster: its answers, its refusals and its health."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.cluster.replicas import Ingress, Tokenizer
from service.errors import ProblemError
from service.scheduling.executor import DeviceFault
from service.settings import Settings
from service.types import Encoded

PIXELS = np.zeros((1, 16, 16, 3), np.uint8)


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Tokenizer]:
    save_bundle(tmp_path / "tiny", OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    replica = Tokenizer(Settings(bundles=(tmp_path / "tiny",), device="cpu", torch_threads=1))
    yield replica
    replica.__del__()


def break_engine(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(OmniTokenizer, "encode_both", fail)


async def test_a_replica_answers_with_its_bundle(replica: Tokenizer) -> None:
    assert [card.id for card in await replica.models()] == ["tiny"]
    answer = await replica.encode("tiny", PIXELS, "tokens")
    assert isinstance(answer, Encoded)
    assert answer.tokens is not None
    assert answer.tokens.shape == (1, 2, 2)
    await replica.check_health()


async def test_refusals_are_answers(replica: Tokenizer) -> None:
    answer = await replica.encode("none", PIXELS, "tokens")
    assert isinstance(answer, ProblemError)
    assert answer.code == "unknown-model"


async def test_a_failure_is_an_answer_and_leaves_the_replica_healthy(
    replica: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_engine(monkeypatch, ValueError("a secret of the implementation"))
    answer = await replica.encode("tiny", PIXELS, "tokens")
    assert isinstance(answer, ProblemError)
    assert answer.code == "internal"
    assert "secret" not in answer.detail
    await replica.check_health()


async def test_a_replica_that_ends_refuses_what_still_comes(replica: Tokenizer) -> None:
    replica.__del__()
    answer = await replica.encode("tiny", PIXELS, "tokens")
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


async def test_a_broken_device_fails_the_health_check(replica: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    break_engine(monkeypatch, torch.AcceleratorError("broken"))
    with pytest.raises(DeviceFault):
        await replica.encode("tiny", PIXELS, "tokens")
    with pytest.raises(RuntimeError, match="unusable"):
        await replica.check_health()
