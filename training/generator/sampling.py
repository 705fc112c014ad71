"""Samples of a generator in training or under evaluation, by the engines that serve it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.generator.config import SamplingDefaults
from model.generator.diffusion_config import DiffusionDefaults
from model.generator.diffusion_sampling import DiffusionItem, DiffusionParams
from model.generator.lm import LanguageModel
from model.generator.networks import Generator
from model.generator.sampling import SamplingParams, row_seed
from model.inference.decoder import Decoder
from model.inference.diffusion import DiffusionSampler
from model.inference.sequence import Sequence as CodeSequence
from model.tokenizer.tokenizer import OmniTokenizer

ITEMS_AT_ONCE = {"cpu": 16, "cuda": 64}


class Sampler:
    """An engine for samples of a network.

    Args:
        network: whose weights are taken as they are now.

    Attributes:
        settings: of sampling: the network's defaults until others take their place.
    """

    def __init__(self, network: Generator) -> None:
        self.config = network.config
        self.settings: SamplingDefaults | DiffusionDefaults = network.config.sampling
        device = next(network.parameters()).device
        self.items_at_once = ITEMS_AT_ONCE[device.type]
        if isinstance(network, LanguageModel):
            self.engine: Decoder | DiffusionSampler = Decoder(network, 2 * self.items_at_once, device)
        else:
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
            self.engine = DiffusionSampler(network, device, dtype)

    def codes(self, labels: Sequence[int], frames: int, seed: int = 0) -> Iterator[Tensor]:
        """Yield samples, a few at a time.

        Args:
            labels: class of each sample.
            frames: latent frames.
            seed: sample i has a seed of its own, whatever else is sampled.

        Yields:
            Tokens (N, t, h, w), or latents (N, t, h, w, c).
        """
        rows = [(label, row_seed(seed, index)) for index, label in enumerate(labels)]
        for start in range(0, len(rows), self.items_at_once):
            part = rows[start : start + self.items_at_once]
            if isinstance(self.engine, Decoder):
                yield self._tokens(self.engine, part, frames)
            else:
                yield self._latents(self.engine, part, frames)

    def pixels(
        self, tokenizer: OmniTokenizer, labels: Sequence[int], frames: int, seed: int = 0
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield samples as `codes` does, decoded by their tokenizer: uint8 (N, T, H, W, 3)."""
        device = next(tokenizer.parameters()).device
        for codes in self.codes(labels, frames, seed):
            with torch.inference_mode():
                yield tokenizer.decode(codes.to(device)).cpu().numpy()

    def _tokens(self, engine: Decoder, rows: Sequence[tuple[int, int]], frames: int) -> Tensor:
        config, grid = engine.config, (frames, *engine.config.grid[1:])
        handles = []
        for label, seed in rows:
            params = SamplingParams(**asdict(self.settings), seed=seed)
            other = config.unconditional_prefix_ids() if params.guided else None
            handles.append(engine.join(CodeSequence(config.prefix_ids(label), int(np.prod(grid)), params, other)))
        while not all(engine.finished(handle) for handle in handles):
            engine.step()
        codes = torch.stack([engine.read(handle) for handle in handles])
        for handle in handles:
            engine.leave(handle)
        return codes.unflatten(1, grid)

    def _latents(self, engine: DiffusionSampler, rows: Sequence[tuple[int, int]], frames: int) -> Tensor:
        settings = self.settings
        assert isinstance(settings, DiffusionDefaults)
        params = DiffusionParams(settings.steps, settings.sampler, frames)
        return engine.sample([DiffusionItem(label, seed, settings.guidance) for label, seed in rows], params)
