"""Plans of load: when each request is due and of what kind it is, drawn ahead from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.service.mixes import BODIES, Mix

BURST_SECONDS = 0.2  # at the start of each second
BURST_FACTOR = 4.0  # rate within a burst, over the mean
QUIET_FACTOR = (1.0 - BURST_SECONDS * BURST_FACTOR) / (1.0 - BURST_SECONDS)


@dataclass(frozen=True)
class Plan:
    """Requests in order of arrival.

    Args:
        due: seconds after the start; zeros for a closed loop.
        kind: index of the kind in the mix.
        body: index of the content.
        number: the number that makes the request unlike all others.
    """

    due: NDArray[np.float64]
    kind: NDArray[np.uint8]
    body: NDArray[np.uint8]
    number: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.due)

    def share(self, index: int, shares: int) -> Plan:
        """Return the requests of one of several processes, every `shares`-th."""
        part = slice(index, None, shares)
        return Plan(self.due[part], self.kind[part], self.body[part], self.number[part])


def open_plan(mix: Mix, rate: float, seconds: float, seed: int) -> Plan:
    """Return Poisson arrivals.

    Args:
        mix: kinds, and the form of arrivals.
        rate: mean requests per second.
        seconds: length.
        seed: the same seed gives the same plan.
    """
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * seconds)
    even = np.sort(rng.uniform(0.0, seconds, count))
    return _plan(mix, _in_bursts(even) if mix.bursts else even, rng)


def closed_plan(mix: Mix, count: int, seed: int) -> Plan:
    """Return requests that wait for nothing but a connection."""
    return _plan(mix, np.zeros(count), np.random.default_rng(seed))


def _in_bursts(even: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move arrivals within their second, so that `BURST_SECONDS` of it hold most of them."""
    second, phase = np.floor(even), even % 1.0
    in_burst = BURST_SECONDS * BURST_FACTOR  # share of the arrivals
    late = BURST_SECONDS + (phase - in_burst) / QUIET_FACTOR
    return second + np.where(phase < in_burst, phase / BURST_FACTOR, late)


def _plan(mix: Mix, due: NDArray[np.float64], rng: np.random.Generator) -> Plan:
    count = len(due)
    kind = rng.choice(len(mix.kinds), count, p=list(mix.kinds.values())).astype(np.uint8)
    body = rng.integers(0, BODIES, count).astype(np.uint8)
    return Plan(due, kind, body, np.arange(count))
