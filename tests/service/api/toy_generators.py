"""Generators without a network: the codes follow from class, seed and number, and a gate holds each step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from service.types import (
    Generated,
    GenerateJob,
    GenerateParams,
    GeneratorCard,
    JobProgress,
    ModelCard,
    Timing,
)

CLASSES = ("tench, Tinca tinca", "red fox", "grey fox", "coinrun")
STEPS = 4


def toy_card(name: str, tokenizer_hash: str, **fields: object) -> GeneratorCard:
    values = {
        "hash": "c" * 64,
        "kind": "lm",
        "makes": ("image", "video"),
        "classes": CLASSES,
        "class_count": len(CLASSES),
        "unconditional": False,
        "grid": (3, 4, 4),
        "takes_prefix": True,
        "needs_prefix": False,
        "guided": True,
        "defaults": GenerateParams(guidance=2.0),
        "max_steps": None,
        "slots": 4,
        "parameters": 1,
        "device": "cpu",
        "dtype": "float32",
        "licence": "Apache-2.0",
    }
    return GeneratorCard(id=name, tokenizer_hash=tokenizer_hash, **(values | fields))  # type: ignore[arg-type]


class ToyGenerators:
    """A `GeneratorBackend`.

    `stall`, where it is set, is awaited before each step; `running` counts the jobs, `cancelled` those that were given
    up, and `jobs` lists all of them.
    """

    def __init__(self, vq: ModelCard, vae: ModelCard) -> None:
        self.cards = [
            toy_card("toy-lm", vq.hash),
            toy_card(
                "toy-dit",
                vae.hash,
                hash="d" * 64,
                kind="diffusion",
                makes=("image",),
                grid=(1, 4, 4),
                takes_prefix=False,
                max_steps=250,
            ),
            toy_card("toy-lost", "9" * 64, hash="e" * 64),
        ]
        self._codes, self._channels = vq.codebook_size or 0, vae.latent_channels
        self.stall: Callable[[], Awaitable[None]] | None = None
        self.running = self.cancelled = 0
        self.jobs: list[GenerateJob] = []

    async def generators(self) -> list[GeneratorCard]:
        return self.cards

    async def generate(
        self, job: GenerateJob, on_progress: Callable[[JobProgress], None], *, seconds: float | None = None
    ) -> Generated:
        card = next(card for card in self.cards if card.id == job.model)
        shape = (job.frames, *card.grid[1:])
        rng = np.random.default_rng([job.seed, job.index, job.class_id or 0])
        tokens = rng.integers(0, self._codes, shape, dtype=np.int32)
        if job.prompt is not None:
            tokens[: len(job.prompt)] = job.prompt
        self.jobs.append(job)
        self.running += 1
        try:
            on_progress(JobProgress(0, STEPS, position=0))
            for step in range(STEPS):
                if self.stall is not None:
                    await self.stall()
                known = tokens.reshape(-1)[: tokens.size * step // STEPS] if job.preview and step else None
                on_progress(JobProgress(step, STEPS, codes=known))
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        timing = Timing(1.0, 2.0, 1)
        if card.kind == "lm":
            return Generated(tokens, None, timing)
        latents = rng.uniform(-0.5, 0.5, (*shape, self._channels)).astype(np.float32)
        return Generated(None, latents, timing)
