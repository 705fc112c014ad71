"""The interface of one generator to the engine of generation."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.scheduling.step_executor import StepRequest
from service.scheduling.stepper import Capacity
from service.types import GenerateJob, GeneratorCard


def quickest(step: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of the quickest of a few steps: other programs slow single ones down."""
    taken = []
    for _ in range(times):
        started = clock()
        step()
        taken.append(clock() - started)
    return min(taken)


@dataclass(frozen=True)
class LaneOptions:
    """Slots and precision of every generator of a replica.

    Args:
        slots: sequences at a time; a guided sample takes two.
        prefill_tokens: prompt tokens computed between two steps.
        dtype: of weights and cache on a GPU; a CPU computes in float32.
        fp8_cache, int8_weights: half the bytes of a language model's cache and weights, for other samples.
    """

    slots: int
    prefill_tokens: int
    dtype: Literal["float32", "bfloat16"] = "float32"
    fp8_cache: bool = False
    int8_weights: bool = False


class Lane(Protocol):
    """One generator and what runs on it; called on one thread, under `torch.inference_mode`."""

    card: GeneratorCard
    capacity: Capacity

    def warm_up(self) -> None:
        """Do what the first caller would wait for, and measure a step."""

    def request(self, job: GenerateJob) -> StepRequest:
        """Return the steps and slots of a job; called on any thread.

        Raises:
            ValueError: the generator cannot do it.
        """

    def join(self, number: int, job: GenerateJob) -> None:
        """Give a job its slots."""

    def prefill(self, number: int, tokens: int) -> None:
        """Compute the next tokens of its prompt."""

    def step(self, numbers: Collection[int]) -> None:
        """Advance jobs that are prefilled by one step; they are all of those where `capacity.rounds` is 1."""

    def peek(self, number: int) -> NDArray[np.int32] | None:
        """Return the tokens (n,) of a job so far, its prompt included; None where unfinished codes show nothing."""

    def finish(self, number: int) -> NDArray[Any]:
        """Return the tokens int32 (t, h, w) or latents float32 (t, h, w, c) of a job whose steps are done."""

    def leave(self, number: int) -> None:
        """Free the slots of a job, if it has any."""
