"""A language model as a lane: jobs in the slots of the decode engine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import GeneratorBundle
from model.generator.config import LanguageModelConfig, RowPrefix
from model.generator.lm import LanguageModel
from model.generator.sampling import SamplingParams, row_seed
from model.inference.decoder import Decoder
from model.inference.sequence import Sequence
from service.engine.card import generator_card
from service.engine.device import DTYPES
from service.engine.lane import LaneOptions, quickest
from service.scheduling.step_executor import StepRequest
from service.scheduling.stepper import Capacity
from service.types import GenerateJob

WARM_UP_CODES = 8
MEASURED_STEPS = 5


class LanguageModelLane:
    """A language model and the sequences that it decodes; a `lane.Lane`.

    Args:
        bundle: of a language model, in float32 on the CPU.
        device: where it runs.
        options: slots and precision.
    """

    def __init__(self, bundle: GeneratorBundle, device: torch.device, options: LaneOptions) -> None:
        assert isinstance(bundle.config, LanguageModelConfig)
        assert isinstance(bundle.generator, LanguageModel)
        self._config = bundle.config
        self._decoder = Decoder(
            bundle.generator,
            options.slots,
            device,
            DTYPES[options.dtype if device.type == "cuda" else "float32"],
            torch.float8_e4m3fn if options.fp8_cache else None,
            options.int8_weights,
        )
        self._sequences: dict[int, Sequence] = {}
        self._handles: dict[int, int] = {}
        self.capacity = Capacity(options.slots, options.prefill_tokens)
        self.card = generator_card(bundle, str(device), options)

    def warm_up(self) -> None:
        """Capture every graph, and measure a step of one sample."""
        self._decoder.warm_up()
        params = SamplingParams(guidance=1.0 if self._config.guidance == "none" else 2.0)
        prompt = (0,) if self._config.prefix == "none" else ()
        prefix = self._config.prefix_ids(0 if self._config.classes else None)
        sequence = Sequence(prefix, WARM_UP_CODES, params, self._unconditional(params), prompt)
        handle = self._decoder.join(sequence)
        self._decoder.step(sequence.steps - MEASURED_STEPS)
        self._decoder.read(handle)

        def step() -> None:
            self._decoder.step()
            self._decoder.read(handle)

        self.card = replace(self.card, step_seconds=quickest(step, MEASURED_STEPS))
        self._decoder.leave(handle)

    def request(self, job: GenerateJob) -> StepRequest:
        """Return the steps and slots of a job."""
        sequence = self._sequence(job)
        return StepRequest(
            self.card.id,
            sequence.slots,
            sequence.prefill,
            sequence.steps,
            job,
            watched=job.watched,
            preview=job.preview,
        )

    def join(self, number: int, job: GenerateJob) -> None:
        """Give a job its slots."""
        sequence = self._sequences[number] = self._sequence(job)
        self._handles[number] = self._decoder.join(sequence)

    def prefill(self, number: int, tokens: int) -> None:
        """Compute the next tokens of its prompt."""
        self._decoder.prefill(self._handles[number], tokens)

    def step(self, numbers: Collection[int]) -> None:
        """Advance every job that is prefilled by one token."""
        self._decoder.step()

    def peek(self, number: int) -> NDArray[np.int32]:
        """Return the tokens (n,) of a job so far, its prompt included."""
        made = self._decoder.read(self._handles[number]).int().numpy()
        return np.concatenate([np.array(self._sequences[number].prompt, np.int32), made])

    def finish(self, number: int) -> NDArray[np.int32]:
        """Return the tokens (t, h, w) of a job."""
        return self.peek(number).reshape(-1, *self._config.grid[1:])

    def leave(self, number: int) -> None:
        """Free the slots of a job."""
        self._sequences.pop(number, None)
        if (handle := self._handles.pop(number, None)) is not None:
            self._decoder.leave(handle)

    def _sequence(self, job: GenerateJob) -> Sequence:
        _, height, width = self._config.grid
        prompt = () if job.prompt is None else tuple(job.prompt.reshape(-1).tolist())
        params = SamplingParams(
            float(job.params.temperature),
            job.params.top_k,
            float(job.params.top_p),
            float(job.params.guidance),
            float(job.params.guidance_growth),
            row_seed(job.seed, job.index),
        )
        length = job.frames * height * width - len(prompt)
        return Sequence(self._config.prefix_ids(job.class_id), length, params, self._unconditional(params), prompt)

    def _unconditional(self, params: SamplingParams) -> RowPrefix | None:
        return self._config.unconditional_prefix_ids() if params.guided else None
