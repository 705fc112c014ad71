"""One training step as pure device code: nothing here waits for the device or branches on a value.

What changes from step to step (its number, the learning rates) is held in tensors of the `Learner`, and random numbers
follow from the number; so for given shapes and a given `Phase` the step is one fixed sequence of kernels, which may be
captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.tokenizer.heads import VQHead
from model.tokenizer.patches import to_float
from training import losses
from training.distributed import Ranks
from training.losses.perceptual import Perceptual
from training.recipes import Stage
from training.rng import FRAMES, normal, words
from training.state import Learner


class Phase(NamedTuple):
    """The parts of a step; known before it runs.

    Args:
        quantise: the decoder sees codes, and equation 1 holds; a VAE has nothing to quantise.
        adversarial: the tokenizer hears the discriminators.
        discriminate: the discriminators learn, after the tokenizer.
    """

    quantise: bool
    adversarial: bool = False
    discriminate: bool = False


class Latents(NamedTuple):
    """The head's output between encoder and decoder.

    Args:
        embed: (B, t, h, w, D), the decoder's input.
        loss: the head's weighted terms.
        figures: their parts, for the journal.
        vectors, tokens: (N, d) and (N,), of a VQ head in a quantising step, detached.
    """

    embed: Tensor
    loss: Tensor
    figures: dict[str, Tensor]
    vectors: Tensor | None = None
    tokens: Tensor | None = None


class TrainingStep:
    """Forward, losses, backward, clipping, Adam, averaging and codebook upkeep of one batch; then the discriminators'.

    Args:
        learner: what changes.
        stage: how.
        seed: of the recipe.
        ranks: the processes that train together; gradients and codebook statistics are theirs together.
        perceptual: the perceptual distance, where the stage has one.
    """

    def __init__(
        self,
        learner: Learner,
        stage: Stage,
        seed: int,
        ranks: Ranks | None = None,
        perceptual: Perceptual | None = None,
    ) -> None:
        self.learner, self.stage, self.seed = learner, stage, seed
        self.ranks = ranks or Ranks()
        self.perceptual = perceptual
        self.device = learner.device

    def __call__(self, pixels: Tensor, phase: Phase) -> dict[str, Tensor]:
        """Train on this rank's share of a batch.

        Args:
            pixels: uint8 (n, T, H, W, 3), n a multiple of the stage's micro-batches.
            phase: what the step consists of.

        Returns:
            Figures of this rank's share, float32 scalars on the device.
        """
        parts = pixels.chunk(self.stage.accumulate)
        figures, outs = self.generate(parts, phase)
        if phase.discriminate:
            figures |= self.discriminate(parts, outs)
        return figures

    def generate(self, parts: tuple[Tensor, ...], phase: Phase) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The tokenizer's part; returns its figures and the reconstructions, float (n, T, H, W, 3)."""
        learner, figures, outs, chosen = self.learner, _Figures(len(parts)), [], []
        learner.optimizer.zero_grad(set_to_none=True)
        with _frozen(learner.discriminators):
            for part, first in self._numbered(parts):
                with self._autocast():
                    loss, out, latents = self._forward(part, first, phase, figures)
                (loss / len(parts)).backward()
                outs.append(out.detach())
                if latents.tokens is not None and latents.vectors is not None:
                    chosen.append((latents.tokens, latents.vectors))
        figures.set("gradient", self._descend(learner.parameters(), learner.optimizer))
        self._average()
        if chosen and learner.keeper is not None:
            tokens, vectors = (self.ranks.gather(torch.cat(values)) for values in zip(*chosen, strict=True))
            learner.keeper.update(learner.step, tokens, vectors, learner.optimizer)
        return figures.values, outs

    def discriminate(self, parts: tuple[Tensor, ...], outs: list[Tensor]) -> dict[str, Tensor]:
        """The discriminators' part, on the pixels and what the tokenizer made of them."""
        learner, figures = self.learner, _Figures(len(parts))
        assert learner.discriminator_optimizer is not None
        learner.discriminator_optimizer.zero_grad(set_to_none=True)
        for (part, first), out in zip(self._numbered(parts), outs, strict=True):
            with self._autocast():
                loss = learner.step.new_zeros((), dtype=torch.float32)
                for name, real, fake in self._views(to_float(part, torch.float32), out, first):
                    logits = learner.discriminators[name](torch.cat((real, fake))).logits
                    hinge = losses.hinge_discriminator(*logits.chunk(2))
                    figures.add(f"{name}_discriminator", hinge)
                    loss = loss + hinge
            (loss / len(parts)).backward()
        self._descend(list(learner.discriminators.parameters()), learner.discriminator_optimizer)
        return figures.values

    @torch.no_grad()
    def start_codebook(self, pixels: Tensor) -> None:
        """Set the codes to vectors of a batch; between two steps, once.

        Args:
            pixels: this rank's share, uint8 (n, T, H, W, 3).
        """
        head, keeper = self.learner.tokenizer.head, self.learner.keeper
        assert isinstance(head, VQHead)
        assert keeper is not None
        with self._autocast():
            parts = [
                head.project(self.learner.tokenizer.encoder(to_float(part, torch.float32))).flatten(0, -2)
                for part in pixels.chunk(self.stage.accumulate)
            ]
        keeper.start(self.ranks.gather(torch.cat(parts)), self.learner.step)

    def _forward(self, part: Tensor, first: int, phase: Phase, figures: _Figures) -> tuple[Tensor, Tensor, Latents]:
        """The weighted sum of all terms, the reconstruction, and what the codebook's upkeep needs."""
        weights, tokenizer = self.stage.losses, self.learner.tokenizer
        pixels = to_float(part, torch.float32)
        latents = self._latents(tokenizer.encoder(pixels), first, phase.quantise)
        out = tokenizer.decoder(latents.embed).float()
        loss = losses.reconstruction(out, pixels, l2=weights.l2, l1=weights.l1) + latents.loss
        figures.add("squared_error", (out.detach() - pixels).square().mean())
        for name, value in latents.figures.items():
            figures.add(name, value)
        if self.perceptual is not None:
            real, fake = self._frames(pixels, first), self._frames(out, first)
            distance = self.perceptual(fake, real)
            figures.add("perceptual", distance)
            loss = loss + weights.perceptual * distance
        if phase.adversarial:
            loss = loss + self._adversarial(pixels, out, first, figures)
        figures.add("loss", loss)
        return loss, out, latents

    def _latents(self, embed: Tensor, first: int, quantise: bool) -> Latents:
        head, weights = self.learner.tokenizer.head, self.stage.losses
        if not isinstance(head, VQHead):
            mean, logvar = head.moments(embed)
            divergence = losses.gaussian_kl(mean, logvar)
            noise = normal(self.seed, self.learner.step, first, mean.shape)
            latents = mean + noise * (0.5 * logvar).exp()
            return Latents(head.expand(latents), weights.kl * divergence, {"kl": divergence})
        vectors = head.project(embed)
        if not quantise:
            return Latents(head.expand(vectors), vectors.new_zeros(()), {})
        tokens = head.assign(vectors.detach())
        codes = head.lookup(tokens)
        codebook = weights.codebook if self.stage.codebook_rule == "gradient" else 0.0
        loss = losses.quantization(vectors, codes, codebook=codebook, commitment=weights.commitment)
        distance = (vectors.detach() - codes.detach()).square().mean()
        embed = head.expand(losses.straight_through(vectors, codes))
        flat = vectors.detach().flatten(0, -2), tokens.flatten()
        return Latents(embed, loss, {"commitment": distance}, *flat)

    def _adversarial(self, pixels: Tensor, out: Tensor, first: int, figures: _Figures) -> Tensor:
        weights = self.stage.losses
        total = out.new_zeros(())
        for name, real, fake in self._views(pixels, out, first):
            judge = self.learner.discriminators[name]
            judgement = judge(fake)
            hinge = losses.hinge_generator(judgement.logits)
            figures.add(f"{name}_adversarial", hinge)
            if weights.feature_matching:
                with torch.no_grad():
                    features = judge(real).features
                matching = losses.feature_matching(features, judgement.features)
                figures.add(f"{name}_features", matching)
                hinge = hinge + weights.feature_matching * matching
            total = total + (weights.image_adversarial if name == "image" else weights.video_adversarial) * hinge
        return total

    def _views(self, pixels: Tensor, out: Tensor, first: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Return the input of each discriminator, channels first: frames for images, whole clips for videos."""
        discriminators = self.learner.discriminators
        if "image" in discriminators:
            real, fake = self._frames(pixels, first), self._frames(out, first)
            yield "image", real.permute(0, 3, 1, 2), fake.permute(0, 3, 1, 2)
        if "video" in discriminators and pixels.shape[1] > 1:
            yield "video", pixels.permute(0, 4, 1, 2, 3), out.permute(0, 4, 1, 2, 3)

    def _frames(self, pixels: Tensor, first: int) -> Tensor:
        """Frames (N, H, W, 3) of images or clips (n, T, H, W, 3); of a clip a few, drawn anew for each step."""
        count, length = pixels.shape[:2]
        if length == 1:
            return pixels[:, 0]
        each = self.stage.losses.clip_frames
        numbers = words(self.seed, FRAMES, self.learner.step, first * each, count * each)
        items = torch.arange(count, device=pixels.device).repeat_interleave(each, output_size=count * each)
        return pixels[items, numbers % length]

    def _numbered(self, parts: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, int]]:
        """Micro-batches, each with the number of its first item among all ranks'."""
        first = self.ranks.rank * sum(len(part) for part in parts)
        for part in parts:
            yield part, first
            first += len(part)

    def _descend(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> Tensor:
        """Average gradients over the ranks, bound their norm, step; returns the norm before."""
        self.ranks.average_([parameter.grad for parameter in parameters if parameter.grad is not None])
        norm = nn.utils.clip_grad_norm_(parameters, self.stage.clip_norm, foreach=True)
        optimizer.step()
        return norm

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the trained ones; the first weights are soon forgotten."""
        step = self.learner.step
        share = 1 - ((1 + step) / (10 + step)).clamp(max=self.stage.ema)
        ours: list[Tensor] = list(self.learner.average.parameters())
        theirs: list[Tensor] = list(self.learner.tokenizer.parameters())
        difference = torch._foreach_sub(theirs, ours)
        torch._foreach_mul_(difference, share)
        torch._foreach_add_(ours, list(difference))

    def _autocast(self) -> torch.autocast:
        enabled = self.stage.precision == "bf16" and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


class _Figures:
    """Detached scalars, averaged over micro-batches."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.values: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """One micro-batch's value."""
        value = value.detach().float() / self.parts
        self.values[name] = self.values[name] + value if name in self.values else value

    def set(self, name: str, value: Tensor) -> None:
        """A value of the whole batch."""
        self.values[name] = value.detach()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for a module's weights, while they pass through it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
