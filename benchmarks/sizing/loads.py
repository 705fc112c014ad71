"""Loads over time, as a number of replicas that they would keep fully busy."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

HOUR, DAY = 3600, 86_400
Load = Callable[[int], float]


@dataclass(frozen=True)
class Scenario:
    """A load and its length.

    Args:
        title: for the table.
        seconds: length.
        load: of a second, in replicas.
        least: replicas that are always there.
    """

    title: str
    seconds: int
    load: Load
    least: int


def step(second: int) -> float:
    """Return a load that grows from half a replica to four within a second, and falls after half an hour."""
    return 4.0 if 600 <= second < 600 + HOUR // 2 else 0.5


def ramp(second: int) -> float:
    """Return a load that grows from half a replica to six within ten minutes."""
    return 0.5 + 5.5 * min(1.0, max(0.0, (second - 600) / 600))


def day(second: int) -> float:
    """Return a day: a tenth of the peak at four, the peak of ten replicas at sixteen o'clock."""
    return 5.5 + 4.5 * math.sin(2 * math.pi * (second / DAY - 10 / 24))


def bursts() -> Load:
    """Return the day with thirty bursts of one to three minutes and two to five replicas."""
    rng = random.Random(1)
    starts = [(rng.randrange(DAY), rng.randint(60, 180), rng.uniform(2, 5)) for _ in range(30)]
    extra = [0.0] * DAY
    for begin, length, height in starts:
        for second in range(begin, min(DAY, begin + length)):
            extra[second] += height
    return lambda second: day(second) + extra[second]


SCENARIOS = (
    Scenario("step from 0.5 to 4", 4500, step, 1),
    Scenario("ramp from 0.5 to 6 in 10 min", 3000, ramp, 1),
    Scenario("a day, peak 10", DAY, day, 2),
    Scenario("the day with 30 bursts", DAY, bursts(), 2),
)
