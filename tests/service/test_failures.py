"""Loops that go on after what nobody foresaw, and say so once."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.api import replay
from service.api.replay import Replays
from service.cluster import replicas
from service.cluster.replicas import Ingress
from service.failures import LoopFailures


class Broken:
    """A part of a loop that fails in the first turns, and ends the loop after the last one."""

    def __init__(self, failures: int) -> None:
        self.turns, self._failures = 0, failures

    def __call__(self, *_: Any) -> None:
        self.turns += 1
        if self.turns <= self._failures:
            raise LookupError("nobody foresaw this")
        raise asyncio.CancelledError

    async def later(self, *_: Any) -> None:
        self()


def test_of_failures_that_follow_each_other_the_first_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.failures.log", logging.getLogger("failures"))  # the other may have another handler
    failures = LoopFailures("the look")
    for failing in (True, True, False, True):
        with failures.logged():
            if failing:
                raise LookupError("gone")
    assert [record.getMessage() for record in caplog.records] == 2 * ["the look failed, and is tried again"]
    assert all(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)


async def test_the_report_of_a_replica_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.failures.log", logging.getLogger("failures"))  # the other may have another handler
    monkeypatch.setattr(replicas, "REPORT_SECONDS", 0.0)
    broken = Broken(2)
    with pytest.raises(asyncio.CancelledError):
        await Ingress._report(cast(Any, SimpleNamespace(_report_once=broken)))
    assert (broken.turns, len(caplog.records)) == (3, 1)


async def test_the_lease_of_a_key_is_renewed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "RENEW_SECONDS", 0.0)
    broken = Broken(2)
    replays = Replays(cast(Any, None), None, cast(Any, SimpleNamespace(renew=broken.later)))
    with pytest.raises(asyncio.CancelledError):
        await replays._renew("key", 1)
    assert broken.turns == 3
