"""One training step as pure device code: nothing here waits for the device or branches on a value.

Tensors of the `TrainState` hold what changes from step to step (its number, the learning rates), and random numbers
follow from the number. For given shapes and a given `Phase` the step is one fixed sequence of kernels, which may be
captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.metrics.psnr import decibels
from model.tokenizer.heads import VQHead
from model.tokenizer.patches import to_float
from training.cuda_graphs import compile_blocks
from training.distributed import Ranks
from training.gradients import GradientAverager
from training.networks.lpips import FeatureDistance
from training.recipes import Stage
from training.rng import FRAMES, random_ints, random_normal
from training.schedule import Phase, discriminator_learning_rate, learning_rate, phase_at
from training.step import apply_gradients, autocast, mean_metrics, update_ema
from training.tokenizer import losses
from training.tokenizer.codebook import usage
from training.tokenizer.state import TrainState

COLUMNS = (
    "step", "kind", "seconds", "resolution", "psnr", "loss", "squared_error", "commitment", "kl", "perceptual",
    "image_adversarial", "image_features", "image_discriminator",
    "video_adversarial", "video_features", "video_discriminator",
    "grad_norm", "learning_rate", "codebook_usage", "perplexity", "steps_per_second",
)  # fmt: skip


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
        codebook_initialized: whether its codes were learned, so that the stage quantises from its first step.
    """

    columns: tuple[str, ...] = COLUMNS
    state_keys = frozenset({"state", "unquantized_steps", "codebook_initialized"})

    def __init__(
        self,
        state: TrainState,
        stage: Stage,
        seed: int,
        ranks: Ranks | None = None,
        perceptual: FeatureDistance | None = None,
        codebook_initialized: bool = False,
    ) -> None:
        self.state, self.stage, self.seed = state, stage, seed
        self.ranks = ranks or Ranks()
        self.averager = GradientAverager(state.parameters(), self.ranks)
        self.discriminator_averager = GradientAverager(list(state.discriminators.parameters()), self.ranks)
        self.perceptual = perceptual
        self.device = state.device
        self.codebook_initialized = codebook_initialized
        self.unquantized_steps = 0 if codebook_initialized else stage.unquantized_steps

    def prepare(self, inputs: Tensor, step: int, share: float) -> Phase:
        """Set the number of the step and its learning rates, and the codes before the first step that quantises."""
        stage = self.stage
        self.state.set_step(step, learning_rate(stage, step, share), discriminator_learning_rate(stage, step, share))
        phase = phase_at(stage, step, self.unquantized_steps)
        if phase.quantise and not self.codebook_initialized:
            self.initialize_codebook(inputs)
            self.codebook_initialized = True
        return phase

    def compile(self) -> None:
        """Compile block by block: blocks of a kind share their code, so a shape is compiled three times, not 16."""
        tokenizer = self.state.tokenizer
        stacks = (part for coder in (tokenizer.encoder, tokenizer.decoder) for part in (coder.spatial, coder.temporal))
        compile_blocks(block for stack in stacks for block in stack.blocks)

    def derived(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the PSNR, and the codebook's use since the row before."""
        values = {"psnr": float(decibels(row["squared_error"]))}
        if self.state.codebook_updater is not None and self.codebook_initialized:
            used, perplexity = usage(self.state.codebook_updater.read_uses())
            values |= {"codebook_usage": float(used), "perplexity": float(perplexity)}
        return values

    def describe(self, row: dict[str, Any]) -> list[str]:
        """Return PSNR and loss, with the use of codes or the divergence of latents."""
        parts = [f"PSNR {row['psnr']:5.2f} dB", f"loss {row['loss']:.4f}"]
        if row["codebook_usage"] is not None:
            parts.append(f"codes {row['codebook_usage']:.1%}, perplexity {row['perplexity']:.0f}")
        return parts if row["kl"] is None else [*parts, f"KL {row['kl']:.0f}"]

    def state_dict(self) -> dict[str, Any]:
        """Return the step's part of a checkpoint."""
        return {
            "state": self.state.state_dict(),
            "unquantized_steps": self.unquantized_steps,
            "codebook_initialized": self.codebook_initialized,
        }

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Set everything as a checkpoint has it."""
        self.state.load_state_dict(checkpoint["state"])
        self.unquantized_steps = checkpoint["unquantized_steps"]
        self.codebook_initialized = checkpoint["codebook_initialized"]

    def first_not_finite(self) -> str | None:
        """Return the name of the first tensor of the state that holds an infinity or NaN."""
        return self.state.first_not_finite()

    def __call__(self, inputs: Tensor, phase: Phase) -> dict[str, Tensor]:
        """Train on this rank's share of a batch.

        Args:
            inputs: pixels, uint8 (n, T, H, W, 3), n a multiple of the stage's micro-batches.
            phase: what the step consists of.

        Returns:
            Metrics of this rank's share, float32 scalars on the device.
        """
        parts = inputs.chunk(self.stage.gradient_accumulation_steps)
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
            for index, (part, first) in enumerate(self._with_first_item(parts), 1):
                with autocast(self.device, self.stage.precision):
                    loss, out, latents = self._forward(part, first, phase)
                self.averager.backward(loss / len(parts), last=index == len(parts))
                metrics.append(latents.metrics | {"loss": loss})
                outs.append(out.detach())
                if latents.tokens is not None and latents.vectors is not None:
                    chosen.append((latents.tokens, latents.vectors))
        grad_norm = apply_gradients(state.parameters(), state.optimizer, self.stage.max_grad_norm)
        update_ema(state.ema, state.tokenizer, state.step, self.stage.ema_decay)
        if chosen and state.codebook_updater is not None:
            tokens, vectors = (self.ranks.all_gather(torch.cat(values)) for values in zip(*chosen, strict=True))
            state.codebook_updater.update(state.step, tokens, vectors, state.optimizer)
        return mean_metrics(metrics) | {"grad_norm": grad_norm}, outs

    def update_discriminators(self, parts: tuple[Tensor, ...], outs: list[Tensor]) -> dict[str, Tensor]:
        """Update the discriminators on pixels and their reconstructions."""
        state, metrics = self.state, []
        assert state.discriminator_optimizer is not None
        state.discriminator_optimizer.zero_grad(set_to_none=True)
        for index, ((part, first), out) in enumerate(zip(self._with_first_item(parts), outs, strict=True), 1):
            with autocast(self.device, self.stage.precision):
                hinges = {}
                for name, real, fake in self._discriminator_inputs(to_float(part, torch.float32), out, first):
                    logits = state.discriminators[name](torch.cat((real, fake))).logits
                    hinges[f"{name}_discriminator"] = losses.hinge_discriminator(*logits.chunk(2))
            if hinges:  # images have none where the stage has a video discriminator alone
                loss = torch.stack(list(hinges.values())).sum() / len(parts)
                self.discriminator_averager.backward(loss, last=index == len(parts))
            metrics.append(hinges)
        parameters = list(state.discriminators.parameters())
        apply_gradients(parameters, state.discriminator_optimizer, self.stage.max_grad_norm)
        return mean_metrics(metrics)

    @torch.no_grad()
    def initialize_codebook(self, pixels: Tensor) -> None:
        """Set the codes to vectors of a batch; between two steps, once.

        Args:
            pixels: this rank's share, uint8 (n, T, H, W, 3).
        """
        head, updater = self.state.tokenizer.head, self.state.codebook_updater
        assert isinstance(head, VQHead)
        assert updater is not None
        with autocast(self.device, self.stage.precision):
            parts = [
                head.project(self.state.tokenizer.encoder(to_float(part, torch.float32))).flatten(0, -2)
                for part in pixels.chunk(self.stage.gradient_accumulation_steps)
            ]
        updater.initialize(self.ranks.all_gather(torch.cat(parts)), self.state.step)

    def _forward(self, part: Tensor, first: int, phase: Phase) -> tuple[Tensor, Tensor, Latents]:
        """Return the weighted sum of all terms, the reconstruction, and the latents with the metrics of all terms."""
        weights, tokenizer = self.stage.losses, self.state.tokenizer
        pixels = to_float(part, torch.float32)
        with torch.set_grad_enabled(not self.stage.decoder_only):
            embed = tokenizer.encoder(pixels)
        latents = self._latents(embed, first, phase.quantise)
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


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of a module's weights, while gradients pass through it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
