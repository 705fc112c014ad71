"""Tokenizer replicas by their own load, whichever way their work came."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from service.cluster.autoscaling import LoadMeter, tokenizer_scale, wanted_replicas
from service.settings import Settings


def wanted(*loads: tuple[float, float], target: int = 1) -> int:
    busy = {number: load[0] for number, load in enumerate(loads)}
    wait = {number: load[1] for number, load in enumerate(loads)}
    context: Any = SimpleNamespace(
        aggregated_metrics={"busy": busy, "wait_seconds": wait} if loads else {}, target_num_replicas=target
    )
    replicas, state = wanted_replicas(context)
    assert state == {}
    return replicas


@pytest.mark.parametrize(
    ("loads", "replicas"),
    [
        ([(0.0, 0.0)], 0),
        ([(0.5, 0.0)], 1),
        ([(0.8, 0.0)], 1),
        ([(1.0, 0.0)], 2),
        ([(1.0, 4.0)], 4),
        ([(0.3, 0.0), (0.3, 0.0)], 1),
        ([(0.8, 0.0), (0.8, 0.0), (0.8, 0.0)], 3),
    ],
)
def test_replicas_follow_their_load(loads: list[tuple[float, float]], replicas: int) -> None:
    assert wanted(*loads) == replicas


def test_silence_changes_nothing() -> None:
    assert wanted(target=3) == 3


def test_a_meter_spreads_long_batches_over_its_readings() -> None:
    now = 0.0
    meter = LoadMeter(lambda: now)
    now = 2.0
    meter.ran(100, 3.0)
    assert meter.read(0) == {"busy": 1.0, "wait_seconds": 0.0}
    now = 4.0
    assert meter.read(0)["busy"] == pytest.approx(0.5)
    now = 6.0
    assert meter.read(50) == {"busy": 0.0, "wait_seconds": pytest.approx(1.5)}
    assert meter.read(0)["busy"] == 0.0, "no time has passed"


def test_a_number_of_replicas_is_kept_unless_a_larger_one_is_allowed() -> None:
    assert tokenizer_scale(Settings(bundles=(), tokenizer_replicas=3)) == {"num_replicas": 3}
    options = tokenizer_scale(Settings(bundles=(), tokenizer_replicas=2, max_tokenizer_replicas=5))
    config = options["autoscaling_config"]
    assert (config.min_replicas, config.max_replicas) == (2, 5)
    with pytest.raises(ValueError, match=r"max_tokenizer_replicas=1 must be at least tokenizer_replicas=2\."):
        Settings(bundles=(), tokenizer_replicas=2, max_tokenizer_replicas=1)
