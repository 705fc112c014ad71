"""A lane over the real language model without cache or kernels, and the tiny bundles that tests generate with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from model.generator.config import GENERATOR_CONFIGS, LanguageModelConfig
from model.generator.lm import LanguageModel
from service.scheduling.step_executor import StepRequest
from service.scheduling.stepper import Capacity
from service.types import GenerateJob, GenerateParams, GeneratorCard


@dataclass
class PlainLane:
    """Computes every token from the whole sequence."""

    model: LanguageModel
    card: GeneratorCard
    capacity: Capacity
    jobs: dict[int, GenerateJob] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)

    def request(self, job: GenerateJob) -> StepRequest:
        prompt = 0 if job.prompt is None else job.prompt.size
        _, height, width = self.card.grid
        slots = 2 if job.params.guidance != 1 else 1
        steps = job.frames * height * width - prompt
        return StepRequest(self.card.id, slots, prompt, steps, job, watched=job.watched, preview=job.preview)

    def join(self, number: int, job: GenerateJob) -> None:
        self.jobs[number] = job
        self.tokens[number] = [] if job.prompt is None else job.prompt.reshape(-1).tolist()

    def prefill(self, number: int, tokens: int) -> None: ...

    def step(self, numbers: Collection[int]) -> None:
        for number in numbers:
            self.tokens[number].append(self._next(self.jobs[number], self.tokens[number]))

    def peek(self, number: int) -> NDArray[np.int32]:
        return np.array(self.tokens[number], np.int32)

    def finish(self, number: int) -> NDArray[np.int32]:
        return self.peek(number).reshape(-1, *self.card.grid[1:])

    def leave(self, number: int) -> None:
        self.jobs.pop(number, None)

    def _next(self, job: GenerateJob, codes: list[int]) -> int:
        config = self.model.config
        logits = self._logits(config.prefix_ids(job.class_id).ids, codes)
        if job.params.guidance != 1:
            unconditional = self._logits(config.unconditional_prefix_ids().ids, codes)
            logits = unconditional + job.params.guidance * (logits - unconditional)
        generator = torch.Generator().manual_seed(1000 * job.seed + 100 * job.index + len(codes))
        weights = torch.softmax(logits / max(job.params.temperature, 1e-4), 0)
        return int(torch.multinomial(weights, 1, generator=generator))

    def _logits(self, prefix: tuple[int, ...], codes: list[int]) -> torch.Tensor:
        ids = torch.tensor([[*prefix, *(code + self.model.config.code_offset for code in codes)]])
        logits: torch.Tensor = self.model(ids)[0, -1, self.model.config.code_offset :]
        return logits


def plain_lane(tokenizer_hash: str, name: str = "tiny-lm", slots: int = 4) -> PlainLane:
    """Return a lane of random weights over the codes of the debug tokenizer."""
    config = GENERATOR_CONFIGS["lm-debug"]
    assert isinstance(config, LanguageModelConfig)
    torch.manual_seed(0)
    card = GeneratorCard(
        id=name,
        hash="c" * 64,
        kind="lm",
        makes=("image", "video"),
        tokenizer_hash=tokenizer_hash,
        classes=("ant", "bee", "cow", "dog"),
        class_count=4,
        unconditional=True,
        grid=config.grid,
        takes_prefix=True,
        needs_prefix=False,
        guided=True,
        defaults=GenerateParams(guidance=1.5),
        slots=slots,
        parameters=1,
        device="cpu",
        dtype="float32",
    )
    return PlainLane(LanguageModel(config).eval(), card, Capacity(slots, 8))
