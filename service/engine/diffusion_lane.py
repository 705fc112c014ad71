"""A diffusion model as a lane: jobs of any shape, each at a step of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import GeneratorBundle
from model.generator.diffusion_sampling import DiffusionItem, DiffusionParams
from model.generator.dit import DiT
from model.generator.sampling import row_seed
from model.inference.diffusion import DiffusionRun, DiffusionSampler
from model.inference.graphs import StepsAhead
from service.engine.card import generator_card
from service.engine.device import DTYPES
from service.engine.lane import LaneOptions, quickest
from service.scheduling.step_executor import StepRequest
from service.scheduling.stepper import Capacity
from service.types import GenerateJob

BATCHES = (1, 2, 4, 8, 16, 32)  # samples of a captured step; more take several
SHORT_BATCHES = (1, 4)  # of fewer frames than the model was trained on, which few ask for
ROUNDS = 8  # of steps that reach all samples held: a long request then holds up no other
MEASURED_STEPS = 3  # each takes long enough on a CPU to even out
STEPS_AHEAD = 2  # of the device; what shares it waits no longer than for these


class DiffusionLane:
    """A diffusion model and the samples that it denoises; a `lane.Lane`.

    Args:
        bundle: of a diffusion model, in float32 on the CPU.
        device: where it runs.
        options: slots and precision.
    """

    def __init__(self, bundle: GeneratorBundle, device: torch.device, options: LaneOptions) -> None:
        assert isinstance(bundle.generator, DiT)
        cuda = device.type == "cuda"
        self._sampler = DiffusionSampler(bundle.generator, device, DTYPES[options.dtype if cuda else "float32"])
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._ahead = StepsAhead(STEPS_AHEAD)
        self._runs: dict[int, DiffusionRun] = {}
        self.capacity = Capacity(options.slots, options.prefill_tokens, ROUNDS)
        self.card = generator_card(bundle, str(device), options)

    def warm_up(self) -> None:
        """Capture every shape of a step, and measure one of one sample."""
        config = self._sampler.config
        sizes = {
            (frames, guided): [count for count in batches if count * (1 + guided) <= self.capacity.slots]
            for frames in range(1, config.grid[0] + 1)
            for batches in (BATCHES if frames == config.grid[0] else SHORT_BATCHES,)
            for guided in (False, True)
        }
        with self._ordered():
            self._sampler.prepare(sizes)
            item = DiffusionItem(None, 0, config.sampling.guidance)
            run = self._sampler.begin(item, DiffusionParams(1 + MEASURED_STEPS, config.sampling.sampler))

            def step() -> None:
                self._sampler.step([run])
                run.latents().cpu()

            step()
            self.card = replace(self.card, step_seconds=quickest(step, MEASURED_STEPS))

    def request(self, job: GenerateJob) -> StepRequest:
        """Return the steps and slots of a job."""
        slots = 1 if job.params.guidance == 1 else 2
        return StepRequest(self.card.id, slots, 0, job.params.steps, job, watched=job.watched)

    def join(self, number: int, job: GenerateJob) -> None:
        """Take in a job."""
        item = DiffusionItem(job.class_id, row_seed(job.seed, job.index), float(job.params.guidance))
        with self._ordered():
            params = DiffusionParams(job.params.steps, job.params.sampler, job.frames)
            self._runs[number] = self._sampler.begin(item, params)

    def prefill(self, number: int, tokens: int) -> None:
        """Do nothing: there are no prompts."""

    def step(self, numbers: Collection[int]) -> None:
        """Take one denoising step of these jobs."""
        with self._ordered():
            self._sampler.step([self._runs[number] for number in numbers])
            if self._stream is not None:
                self._ahead.add(self._stream)

    def peek(self, number: int) -> None:
        """Return nothing: unfinished latents are noise."""

    def finish(self, number: int) -> NDArray[np.float32]:
        """Return the latents (t, h, w, c) of a job."""
        with self._ordered():
            latents: NDArray[np.float32] = self._runs[number].latents().float().cpu().numpy()
        return latents

    def leave(self, number: int) -> None:
        """Take a job out."""
        self._runs.pop(number, None)

    @contextmanager
    def _ordered(self) -> Iterator[None]:
        """Run a block on the lane's own stream, where encoding does not wait for it."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
