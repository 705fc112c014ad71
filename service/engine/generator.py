"""The generators of one replica: sequences join, advance step by step, and leave."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import GeneratorBundle, load_generator
from model.compatibility import check_compatible
from model.generator.config import LanguageModelConfig
from service.engine.device import choose_device
from service.engine.diffusion_lane import DiffusionLane
from service.engine.lane import Lane, LaneOptions
from service.engine.language_model_lane import LanguageModelLane
from service.scheduling.executor import DeviceFault, OutOfMemory
from service.scheduling.step_executor import StepRequest
from service.scheduling.stepper import Capacity
from service.scheduling.stepper import Sequence as Steps
from service.types import GenerateJob, GeneratorCard


class GeneratorEngine:
    """An engine that runs jobs on lanes; a `step_executor.StepEngine`.

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

    @classmethod
    def load(
        cls, bundles: Sequence[Path], device: str, threads: int, options: LaneOptions, tokenizers: Sequence[Path] = ()
    ) -> GeneratorEngine:
        """Load bundles onto one device, ready to run.

        Args:
            bundles: folders of generators; the first is the default.
            device: "cpu", "cuda", or "auto" for CUDA where there is one.
            threads: CPU threads.
            options: slots and precision.
            tokenizers: folders of tokenizers, of which the generators name theirs by hash.

        Raises:
            BundleError: a folder is not a usable generator bundle, or does not fit its tokenizer.
            ValueError: two bundles share a name, or there is no CUDA device.
        """
        check_compatible(bundles, tokenizers)
        torch.set_num_threads(threads)
        where = choose_device(device)
        lanes = [_lane(load_generator(path), where, options) for path in bundles]
        engine = cls(lanes)
        with _device_errors():
            for lane in lanes:
                lane.warm_up()
        return engine

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

    def step(self, model: str, sequences: Collection[Steps]) -> None:
        """Advance sequences of a generator by one step."""
        with _device_errors():
            self._lanes[model].step([sequence.id for sequence in sequences])

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


def _lane(bundle: GeneratorBundle, device: torch.device, options: LaneOptions) -> Lane:
    kind = LanguageModelLane if isinstance(bundle.config, LanguageModelConfig) else DiffusionLane
    return kind(bundle, device, options)


@contextmanager
def _device_errors() -> Iterator[None]:
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(str(error)) from None
    except torch.AcceleratorError as error:
        raise DeviceFault(str(error)) from None
