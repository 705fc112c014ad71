"""Clocks, and the ceilings of this machine: rates of a large copy and a large matrix product."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training.card import code_version, machine_name

COPY_BYTES = 2_000_000_000  # many times any L2
COPY_RUNS = 11


@dataclass(frozen=True)
class Spread:
    """The median, fastest and slowest of several runs, in milliseconds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, times: list[float]) -> Spread:
        """Return the spread of the milliseconds of single runs."""
        times = sorted(times)
        return cls(times[len(times) // 2], times[0], times[-1])

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Ceilings:
    """The measured ceilings of this GPU, the base of every share of the limit.

    Args:
        copy: bytes/s read and written by a large copy within the device's memory.
        product: FLOP/s of a large square bfloat16 matrix product.
    """

    copy: float
    product: float

    def __str__(self) -> str:
        return (
            f"a copy reaches {self.copy / 1e12:.2f} TB/s here, "
            f"a large bfloat16 matrix product {self.product / 1e12:.0f} TFLOP/s"
        )


def device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_machine() -> str:
    """Return hardware, versions and commit, one line each."""
    return (
        f"hardware: {machine_name(device())}, {torch.get_num_threads()} CPU threads\n"
        f"versions: Python {platform.python_version()}, torch {torch.__version__}\n"
        f"commit: {code_version()}"
    )


def time_call(call: Callable[[], Any], runs: int) -> Spread:
    """Time a call, and drain the device's queue before and after each run.

    Args:
        call: the timed function.
        runs: number of timed runs, after two warm-up runs.
    """
    cuda = torch.cuda.is_available()
    times = []
    for run in range(runs + 2):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        if run >= 2:
            times.append(1e3 * (time.perf_counter() - start))
    return Spread.of(times)


def time_on_device(call: Callable[[], Any], runs: int, calls: int = 1) -> Spread:
    """Time a call by CUDA events.

    Args:
        call: the timed function.
        runs: number of timed runs, after two warm-up runs.
        calls: number of back-to-back calls in a run; their mean counts.
    """
    times = []
    for run in range(runs + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        if run >= 2:
            times.append(start.elapsed_time(end) / calls)
    return Spread.of(times)


def matmul_rate(dtype: torch.dtype, where: str = "cuda") -> float:
    """Return the FLOP/s of a large square matrix product on random data, the ceiling of this precision."""
    side = 8192 if where == "cuda" else 1024
    a, b = (torch.randn(side, side, device=where).to(dtype) for _ in range(2))
    return 2 * side**3 / (time_call(lambda: a @ b, 5).median * 1e-3)


def copy_rate() -> float:
    """Return the median bytes/s, read and written, of copies of `COPY_BYTES` within the CUDA device's memory."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (time_on_device(lambda: target.copy_(source), COPY_RUNS).median * 1e-3)


def measure_ceilings() -> Ceilings:
    """Measure both on the current CUDA device, which must be otherwise idle."""
    ceilings = Ceilings(copy_rate(), matmul_rate(torch.bfloat16))
    torch.cuda.empty_cache()
    return ceilings
