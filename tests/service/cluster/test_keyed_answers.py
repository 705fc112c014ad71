"""The way to the store of idempotency keys while Ray does not answer; no cluster runs."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from service.cluster import keyed_answers
from service.cluster.keyed_answers import RayKeyedAnswers
from service.errors import ProblemError
from service.settings import Settings


class Ray:
    """A Ray whose lookups wait for `found`, and whose actor answers `answer`, or never if that is None.

    Attributes:
        threads: of the lookups.
    """

    def __init__(self, answer: Any = None) -> None:
        self.found, self.threads, self._answer = threading.Event(), list[int](), answer

    def options(self, **options: Any) -> Ray:
        return self

    def remote(self, *arguments: Any) -> Any:
        if isinstance(arguments[0], type):  # `ray.remote` of the class
            return self
        self.threads.append(threading.get_ident())
        self.found.wait(10)
        return self

    @property
    def begin(self) -> Any:
        return _Method(self._answer)

    finish = begin


class _Method:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def remote(self, *arguments: Any) -> Any:
        return self._answer if self._answer is not None else await asyncio.Future()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    found = Ray(7)
    monkeypatch.setattr(keyed_answers, "ray", found)
    return found


async def test_a_lookup_that_takes_long_holds_up_no_other_request(ray: Ray) -> None:
    keyed = RayKeyedAnswers(Settings(bundles=()))
    crowd = [asyncio.create_task(keyed.begin(f"a {number}", b"", 1.0)) for number in range(3)]
    await asyncio.sleep(0)
    ray.found.set()
    assert await asyncio.gather(*crowd) == [7] * 3
    assert len(ray.threads) == 1
    assert ray.threads != [threading.get_ident()]


async def test_who_gives_up_leaves_the_lookup_to_the_next(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_answers, "PATIENCE_SECONDS", 0.01)
    keyed = RayKeyedAnswers(Settings(bundles=()))
    for _ in range(3):
        with pytest.raises(ProblemError, match="not-ready"):
            await keyed.begin("a key", b"", 1.0)
    assert len(ray.threads) == 1, "each would hold a thread"
    ray.found.set()


async def test_an_answer_goes_out_though_nobody_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Ray()
    silent.found.set()
    monkeypatch.setattr(keyed_answers, "ray", silent)
    monkeypatch.setattr(keyed_answers, "PATIENCE_SECONDS", 0.01)
    async with asyncio.timeout(60):
        await RayKeyedAnswers(Settings(bundles=())).finish("a key", 7, None)
