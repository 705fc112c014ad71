"""The generators of one replica: sequences join, advance step by step, and leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from service.scheduling.executor import DeviceFault, OutOfMemory
from service.scheduling.step_executor import StepRequest
from service.scheduling.stepper import Capacity
from service.scheduling.stepper import Sequence as Steps
from service.types import GenerateJob, GeneratorCard


class Lane(Protocol):
    """One generator and what runs on it; called on one thread, under `torch.inference_mode`."""

    card: GeneratorCard
    capacity: Capacity

    def request(self, job: GenerateJob) -> StepRequest:
        """Return the steps and slots of a job; called on any thread."""

    def join(self, number: int, job: GenerateJob) -> None:
        """Give a job its slots."""

    def prefill(self, number: int, tokens: int) -> None:
        """Compute the next tokens of its prompt."""

    def step(self) -> None:
        """Advance every job that is prefilled by one step."""

    def peek(self, number: int) -> NDArray[np.int32] | None:
        """Return the tokens (n,) of a job so far, its prompt included; None where unfinished codes show nothing."""

    def finish(self, number: int) -> NDArray[Any]:
        """Return the tokens int32 (t, h, w) or latents float32 (t, h, w, c) of a job whose steps are done."""

    def leave(self, number: int) -> None:
        """Free the slots of a job, if it has any."""


class GeneratorEngine:
    """Runs jobs on lanes; a `step_executor.StepEngine`.

    Args:
        lanes: the generators, the default one first.

    Raises:
        ValueError: two generators share a name.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes: dict[str, Lane] = {}
        for lane in lanes:
            if lane.card.id in self._lanes:
                raise ValueError(f"Two generators are named {lane.card.id!r}; rename the folder of one.")
            self._lanes[lane.card.id] = lane

    @property
    def cards(self) -> list[GeneratorCard]:
        """Return the generators, the default one first."""
        return [lane.card for lane in self._lanes.values()]

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """Return slots and prefill chunk of each generator."""
        return {name: lane.capacity for name, lane in self._lanes.items()}

    def request(self, job: GenerateJob) -> StepRequest:
        """Return the steps and slots of a job."""
        return self._lanes[job.model].request(job)

    def join(self, sequence: Steps) -> None:
        """Give a sequence its slots."""
        with _device_errors():
            self._lanes[sequence.model].join(sequence.id, sequence.payload)

    def prefill(self, sequence: Steps, tokens: int) -> None:
        """Compute the next tokens of its prompt."""
        with _device_errors():
            self._lanes[sequence.model].prefill(sequence.id, tokens)

    def step(self, model: str) -> None:
        """Advance a generator by one step."""
        with _device_errors():
            self._lanes[model].step()

    def peek(self, sequence: Steps) -> NDArray[np.int32] | None:
        """Return the tokens of a sequence so far."""
        with _device_errors():
            return self._lanes[sequence.model].peek(sequence.id)

    def finish(self, sequence: Steps) -> NDArray[Any]:
        """Return the result of a sequence and free its slots."""
        lane = self._lanes[sequence.model]
        with _device_errors():
            try:
                return lane.finish(sequence.id)
            finally:
                lane.leave(sequence.id)

    def leave(self, sequence: Steps) -> None:
        """Free the slots of a sequence."""
        with _device_errors():
            self._lanes[sequence.model].leave(sequence.id)


@contextmanager
def _device_errors() -> Iterator[None]:
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(str(error)) from None
    except torch.AcceleratorError as error:
        raise DeviceFault(str(error)) from None
