"""A diffusion model as a lane: jobs of one shape that start together and run in lockstep."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import GeneratorBundle
from model.generator.diffusion_sampling import DiffusionItem, DiffusionParams
from model.generator.dit import DiT
from model.generator.sampling import row_seed
from model.inference.diffusion import DiffusionRun, DiffusionSampler, StepShape
from service.engine.card import generator_card
from service.engine.device import DTYPES
from service.engine.lane import LaneOptions
from service.scheduling.step_executor import StepRequest
from service.scheduling.stepper import Capacity
from service.types import GenerateJob

BATCHES = (1, 2, 4, 8, 16, 32)  # numbers of samples that a GPU captures; others are padded
BATCH_STEP = 32  # between larger ones
STEPS_AHEAD = 2  # of the device; what shares it waits no longer than for these

Item = TypeVar("Item")


class DiffusionLane:
    """A diffusion model and the batch that it denoises; a `lane.Lane`.

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
        self._ahead: deque[torch.cuda.Event] = deque()
        self._jobs: dict[int, GenerateJob] = {}  # of the batch, in the order of its items
        self._places: dict[int, int] = {}
        self._items = 0  # of the batch, those that pad it included
        self._run: DiffusionRun | None = None
        self._latents: NDArray[np.float32] | None = None
        self.capacity = Capacity(options.slots, options.prefill_tokens)
        self.card = generator_card(bundle, device, options)

    def warm_up(self) -> None:
        """Capture the usual batches, and measure a step of one sample."""
        config = self._sampler.config
        with self._ordered():
            for shape in self._usual_shapes() if self._stream is not None else ():
                self._sampler.prepare(shape)
            item = DiffusionItem(None, 0, config.sampling.guidance)
            run = self._sampler.begin([item], DiffusionParams(2, config.sampling.sampler))
            run.step()
            run.latents().cpu()
            started = time.perf_counter()
            run.step()
            run.latents().cpu()
        self.card = replace(self.card, step_seconds=time.perf_counter() - started)

    def request(self, job: GenerateJob) -> StepRequest:
        """Return the steps and slots of a job; jobs of one group share a batch."""
        guided = job.params.guidance != 1
        group = (job.frames, job.params.steps, job.params.sampler, guided)
        return StepRequest(self.card.id, 1 + guided, 0, job.params.steps, job, group, job.watched)

    def join(self, number: int, job: GenerateJob) -> None:
        """Put a job into the batch that starts with the next step."""
        self._jobs[number] = job

    def prefill(self, number: int, tokens: int) -> None:
        """Do nothing: there are no prompts."""

    def step(self) -> None:
        """Take one denoising step of the batch."""
        with self._ordered():
            if self._run is None:
                self._run = self._begin()
            self._run.step()
            if self._stream is not None:
                event = torch.cuda.Event(blocking=True)
                event.record(self._stream)
                self._ahead.append(event)
                if len(self._ahead) > STEPS_AHEAD:
                    self._ahead.popleft().synchronize()

    def peek(self, number: int) -> None:
        """Return nothing: unfinished latents are noise."""

    def finish(self, number: int) -> NDArray[np.float32]:
        """Return the latents (t, h, w, c) of a job."""
        assert self._run is not None
        if self._latents is None:
            with self._ordered():
                self._latents = self._run.latents().float().cpu().numpy()
        return self._latents[self._places[number]].copy()

    def leave(self, number: int) -> None:
        """Take a job out; the batch ends with the last one, and shrinks where fewer items do."""
        if self._jobs.pop(number, None) is None or self._run is None:
            return
        if not self._jobs:
            self._run = self._latents = None
            self._ahead.clear()
        elif not self._run.finished:
            kept = [self._places[other] for other in self._jobs]
            if len(padded := self._padded(kept)) < self._items:
                with self._ordered():
                    self._run.keep(padded)
                self._number(len(padded))

    def _usual_shapes(self) -> Iterator[StepShape]:
        config = self._sampler.config
        random = config.sampling.sampler == "ddpm"
        # samples without a class are not guided
        for guided, count in product({config.sampling.guidance != 1, False}, BATCHES):
            if count * (1 + guided) <= self.capacity.slots:
                yield StepShape(count, config.grid[0], guided, random)
        for frames in range(1, config.grid[0]):  # each number has kernels of its own
            yield StepShape(1, frames, False, random)

    def _begin(self) -> DiffusionRun:
        jobs = list(self._jobs.values())
        items = self._padded(
            [DiffusionItem(job.class_id, row_seed(job.seed, job.index), float(job.params.guidance)) for job in jobs]
        )
        self._number(len(items))
        first = jobs[0]
        return self._sampler.begin(items, DiffusionParams(first.params.steps, first.params.sampler, first.frames))

    def _number(self, items: int) -> None:
        """Note the places of the jobs among so many items."""
        self._items = items
        self._places = {number: place for place, number in enumerate(self._jobs)}

    def _padded(self, items: list[Item]) -> list[Item]:
        """Return the items, the last one repeated up to a number that a GPU captures."""
        if self._stream is None:
            return items
        larger = -(-len(items) // BATCH_STEP) * BATCH_STEP
        size = BATCHES[bisect_left(BATCHES, len(items))] if len(items) <= BATCHES[-1] else larger
        return items + items[-1:] * (size - len(items))

    @contextmanager
    def _ordered(self) -> Iterator[None]:
        """Run a block on the lane's own stream, where encoding does not wait for it."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
