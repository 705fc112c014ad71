"""One training step as pure device code: nothing here waits for the device or branches on a value.

Tensors of the `TrainState` hold what changes from step to step (its number, the learning rates), and random numbers
follow from the number. For given shapes and a given `Phase` the step is one fixed sequence of kernels, which may be
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
from training.distributed import Ranks
from training.networks.lpips import FeatureDistance
from training.recipes import Stage
from training.rng import FRAMES, random_ints, random_normal
from training.schedule import Phase
from training.tokenizer import losses
from training.tokenizer.state import TrainState


class Latents(NamedTuple):
    """The head's output between encoder and decoder.

    Args:
        embed: (B, t, h, w, D), the decoder's input.
        loss: the head's weighted terms.
        metrics: their parts.
        vectors, tokens: (N, d) and (N,), of a VQ head in a quantising step, detached.
    """

    embed: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]
    vectors: Tensor | None = None
    tokens: Tensor | None = None


class TrainingStep:
    """Forward, losses, backward, clipping, Adam, averaging and codebook update of one batch; then the discriminators'.

    Args:
        state: what changes.
        stage: settings of the training.
        seed: of the recipe.
        ranks: the processes that train together, which share gradients and codebook statistics.
        perceptual: the perceptual distance, where the stage has one.
    """

    def __init__(
        self,
        state: TrainState,
        stage: Stage,
        seed: int,
        ranks: Ranks | None = None,
        perceptual: FeatureDistance | None = None,
    ) -> None:
        self.state, self.stage, self.seed = state, stage, seed
        self.ranks = ranks or Ranks()
        self.perceptual = perceptual
        self.device = state.device

    def __call__(self, pixels: Tensor, phase: Phase) -> dict[str, Tensor]:
        """Train on this rank's share of a batch.

        Args:
            pixels: uint8 (n, T, H, W, 3), n a multiple of the stage's micro-batches.
            phase: what the step consists of.

        Returns:
            Metrics of this rank's share, float32 scalars on the device.
        """
        parts = pixels.chunk(self.stage.gradient_accumulation_steps)
        metrics, outs = self.update_tokenizer(parts, phase)
        if phase.discriminate:
            metrics |= self.update_discriminators(parts, outs)
        return metrics

    def update_tokenizer(self, parts: tuple[Tensor, ...], phase: Phase) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Update the tokenizer; return its metrics and the reconstructions, float (n, T, H, W, 3)."""
        state, outs, chosen = self.state, [], []
        metrics: list[dict[str, Tensor]] = []
        state.optimizer.zero_grad(set_to_none=True)
        with _frozen(state.discriminators):
            for part, first in self._with_first_item(parts):
                with self._autocast():
                    loss, out, latents = self._forward(part, first, phase)
                (loss / len(parts)).backward()
                metrics.append(latents.metrics | {"loss": loss})
                outs.append(out.detach())
                if latents.tokens is not None and latents.vectors is not None:
                    chosen.append((latents.tokens, latents.vectors))
        grad_norm = self._optimize(state.parameters(), state.optimizer)
        self._update_ema()
        if chosen and state.codebook_updater is not None:
            tokens, vectors = (self.ranks.all_gather(torch.cat(values)) for values in zip(*chosen, strict=True))
            state.codebook_updater.update(state.step, tokens, vectors, state.optimizer)
        return _mean(metrics) | {"grad_norm": grad_norm}, outs

    def update_discriminators(self, parts: tuple[Tensor, ...], outs: list[Tensor]) -> dict[str, Tensor]:
        """Update the discriminators on pixels and their reconstructions."""
        state, metrics = self.state, []
        assert state.discriminator_optimizer is not None
        state.discriminator_optimizer.zero_grad(set_to_none=True)
        for (part, first), out in zip(self._with_first_item(parts), outs, strict=True):
            with self._autocast():
                hinges = {}
                for name, real, fake in self._discriminator_inputs(to_float(part, torch.float32), out, first):
                    logits = state.discriminators[name](torch.cat((real, fake))).logits
                    hinges[f"{name}_discriminator"] = losses.hinge_discriminator(*logits.chunk(2))
            if hinges:  # images have none where the stage has a video discriminator alone
                (torch.stack(list(hinges.values())).sum() / len(parts)).backward()
            metrics.append(hinges)
        self._optimize(list(state.discriminators.parameters()), state.discriminator_optimizer)
        return _mean(metrics)

    @torch.no_grad()
    def initialize_codebook(self, pixels: Tensor) -> None:
        """Set the codes to vectors of a batch; between two steps, once.

        Args:
            pixels: this rank's share, uint8 (n, T, H, W, 3).
        """
        head, updater = self.state.tokenizer.head, self.state.codebook_updater
        assert isinstance(head, VQHead)
        assert updater is not None
        with self._autocast():
            parts = [
                head.project(self.state.tokenizer.encoder(to_float(part, torch.float32))).flatten(0, -2)
                for part in pixels.chunk(self.stage.gradient_accumulation_steps)
            ]
        updater.initialize(self.ranks.all_gather(torch.cat(parts)), self.state.step)

    def _forward(self, part: Tensor, first: int, phase: Phase) -> tuple[Tensor, Tensor, Latents]:
        """Return the weighted sum of all terms, the reconstruction, and the latents with the metrics of all terms."""
        weights, tokenizer = self.stage.losses, self.state.tokenizer
        pixels = to_float(part, torch.float32)
        latents = self._latents(tokenizer.encoder(pixels), first, phase.quantise)
        out = tokenizer.decoder(latents.embed).float()
        loss = losses.reconstruction(out, pixels, l2=weights.l2, l1=weights.l1) + latents.loss
        latents.metrics["squared_error"] = (out.detach() - pixels).square().mean()
        if self.perceptual is not None:
            real, fake = self._frames(pixels, first), self._frames(out, first)
            distance = self.perceptual(fake, real).mean()
            latents.metrics["perceptual"] = distance
            loss = loss + weights.perceptual * distance
        if phase.adversarial:
            loss = loss + self._adversarial(pixels, out, first, latents.metrics)
        return loss, out, latents

    def _latents(self, embed: Tensor, first: int, quantise: bool) -> Latents:
        head, weights = self.state.tokenizer.head, self.stage.losses
        if not isinstance(head, VQHead):
            mean, logvar = head(embed)
            divergence = losses.gaussian_kl(mean, logvar)
            noise = random_normal(self.seed, self.state.step, first, mean.shape)
            latents = mean + noise * (0.5 * logvar).exp()
            return Latents(head.expand(latents), weights.kl * divergence, {"kl": divergence})
        vectors = head.project(embed)
        if not quantise:
            return Latents(head.expand(vectors), vectors.new_zeros(()), {})
        tokens = head.assign(vectors.detach())
        codes = head.lookup(tokens)
        codebook = weights.codebook if self.stage.codebook_update == "gradient" else 0.0
        loss = losses.quantization(vectors, codes, codebook=codebook, commitment=weights.commitment)
        distance = (vectors.detach() - codes.detach()).square().mean()
        embed = head.expand(losses.straight_through(vectors, codes))
        flat = vectors.detach().flatten(0, -2), tokens.flatten()
        return Latents(embed, loss, {"commitment": distance}, *flat)

    def _adversarial(self, pixels: Tensor, out: Tensor, first: int, metrics: dict[str, Tensor]) -> Tensor:
        weights = self.stage.losses
        total = out.new_zeros(())
        for name, real, fake in self._discriminator_inputs(pixels, out, first):
            discriminator = self.state.discriminators[name]
            judged = discriminator(fake)
            hinge = losses.hinge_generator(judged.logits)
            metrics[f"{name}_adversarial"] = hinge
            if weights.feature_matching:
                with torch.no_grad():
                    features = discriminator(real).features
                matching = losses.feature_matching(features, judged.features)
                metrics[f"{name}_features"] = matching
                hinge = hinge + weights.feature_matching * matching
            total = total + (weights.image_adversarial if name == "image" else weights.video_adversarial) * hinge
        return total

    def _discriminator_inputs(self, pixels: Tensor, out: Tensor, first: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the input of each discriminator, channels first: frames for images, whole clips for videos."""
        discriminators = self.state.discriminators
        if "image" in discriminators:
            real, fake = self._frames(pixels, first), self._frames(out, first)
            yield "image", real.permute(0, 3, 1, 2), fake.permute(0, 3, 1, 2)
        if "video" in discriminators and pixels.shape[1] > 1:
            yield "video", pixels.permute(0, 4, 1, 2, 3), out.permute(0, 4, 1, 2, 3)

    def _frames(self, pixels: Tensor, first: int) -> Tensor:
        """Return frames (N, H, W, 3) of images or clips (n, T, H, W, 3); of a clip a few, drawn anew for each step."""
        count, length = pixels.shape[:2]
        if length == 1:
            return pixels[:, 0]
        each = self.stage.losses.clip_frames
        numbers = random_ints(self.seed, FRAMES, self.state.step, first * each, count * each)
        items = torch.arange(count, device=pixels.device).repeat_interleave(each, output_size=count * each)
        return pixels[items, numbers % length]

    def _with_first_item(self, parts: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, int]]:
        """Yield micro-batches, each with the number of its first item among all ranks'."""
        first = self.ranks.rank * sum(len(part) for part in parts)
        for part in parts:
            yield part, first
            first += len(part)

    def _optimize(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> Tensor:
        """Average gradients over the ranks, clip their norm, step; return the norm before."""
        self.ranks.all_reduce_mean_([parameter.grad for parameter in parameters if parameter.grad is not None])
        norm = nn.utils.clip_grad_norm_(parameters, self.stage.max_grad_norm, foreach=True)
        optimizer.step()
        return norm.detach()

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Move the averaged weights towards the trained ones; the first weights are soon forgotten."""
        step = self.state.step
        share = 1 - ((1 + step) / (10 + step)).clamp(max=self.stage.ema_decay)
        ema: list[Tensor] = list(self.state.ema.parameters())
        trained: list[Tensor] = list(self.state.tokenizer.parameters())
        difference = torch._foreach_sub(trained, ema)
        torch._foreach_mul_(difference, share)
        torch._foreach_add_(ema, list(difference))

    def _autocast(self) -> torch.autocast:
        enabled = self.stage.precision == "bf16" and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def _mean(metrics: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average the metrics of micro-batches."""
    return {name: torch.stack([part[name].detach().float() for part in metrics]).mean() for name in metrics[0]}


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of a module's weights, while gradients pass through it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
