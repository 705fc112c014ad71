"""Steps of batches are timed by the clock of whoever does them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.engine.step_clock import DEVICE_STEPS, StepClock, Total, busy_seconds
from service.engine.tokenizer import Engine
from service.types import TokenizerKey


class Event:
    """An event of a device whose time is its own, and which ends no work by itself."""

    now, ended_until = 0.0, 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = Event.now

    def query(self) -> bool:
        return self.at <= Event.ended_until

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


def test_steps_of_a_gpu_count_when_it_has_ended_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = StepClock(on_gpu=True)
    clock.running = True
    for milliseconds in (250.0, 500.0):
        with clock.on_device("encode"):
            Event.now += milliseconds
    assert clock.totals()["encode"] == Total()
    Event.ended_until = 250.0
    assert clock.totals()["encode"] == Total(1, 0.25)
    Event.ended_until = 750.0
    assert clock.totals()["encode"] == Total(2, 0.75)
    assert busy_seconds(clock.totals()) == 0.75


def test_an_engine_times_steps_when_it_is_asked_to(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_bundle(tmp_path / "debug", OmniTokenizer(CONFIGS["debug"]).eval(), "Random weights.")
    engine = Engine([tmp_path / "debug"], "cuda" if torch.cuda.is_available() else "cpu", "float32", 1)
    key = TokenizerKey(engine.cards[0].id, "encode", "pixels", (1, 32, 32))
    pixels = [np.zeros((1, 32, 32, 3), np.uint8)]
    engine.run(key, pixels)
    assert not any(total.times for total in engine.clock.totals().values())
    engine.clock.running = True
    engine.launch(key, pixels, engine.stage(key, pixels))()
    totals = engine.clock.totals()
    assert totals["stage"].times == totals["encode"].times == 1
    assert busy_seconds(totals) == totals["encode"].seconds > 0
    copies = {totals[step].times for step in DEVICE_STEPS if step.endswith("load")}
    assert copies == ({1} if torch.cuda.is_available() else {0})
