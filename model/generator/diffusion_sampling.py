"""Steps of diffusion sampling as pure functions: guidance, DDPM and DDIM (section 3.2; docs/model.md, Diffusion)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.config_checks import ConfigError, check_counts, check_number
from model.generator.diffusion_config import DiffusionConfig, SamplerName, check_sampler
from model.generator.limits import MAX_GUIDANCE, MAX_SEED
from model.generator.noise_schedule import NoiseSchedule

MAX_ORDER = 4


@dataclass(frozen=True)
class FeatureCache:
    """A forecast of the network's last features in place of most of its steps, after TaylorSeer (arXiv 2503.06923).

    The network runs at the first `full_steps` steps and at every `interval`-th one after them. At the others a Taylor
    series through its latest runs gives the output of the last block.

    Args:
        interval: steps from one run to the next; 1 runs all of them.
        order: of the series; 0 repeats the latest features.
        full_steps: steps at the start that all run.
    """

    interval: int = 3
    order: int = 1
    full_steps: int = 3

    def __post_init__(self) -> None:
        check_counts(self, ("interval", "full_steps"), most=1000)
        check_counts(self, ("order",), least=0, most=MAX_ORDER)

    def runs(self, step: int) -> bool:
        """Return whether the network runs at a step, counted from 0 in the order of sampling."""
        return step < self.full_steps or (step - self.full_steps + 1) % self.interval == 0


@dataclass(frozen=True)
class DiffusionParams:
    """Options that all items of a batch share.

    Args:
        steps: denoising steps, evenly spaced in the model's timesteps.
        sampler: "ddim" (eta 0, deterministic) or "ddpm".
        frames: latent frames; None for those of the model's grid.
        cache: a forecast of features, or None to run the network at every step.
    """

    steps: int = 50
    sampler: SamplerName = "ddim"
    frames: int | None = None
    cache: FeatureCache | None = None

    def __post_init__(self) -> None:
        check_counts(self, ("steps",))
        check_sampler(self.sampler)
        if self.frames is not None:
            check_counts(self, ("frames",))
        if self.cache is not None and not isinstance(self.cache, FeatureCache):
            raise ConfigError(f"cache must be a FeatureCache or None, not {self.cache!r}.")


@dataclass(frozen=True)
class DiffusionItem:
    """One sample of a batch.

    Args:
        class_id: of the sample; None for the null class.
        seed: of its noise, which depends on nothing else; an integer below 2^63.
        guidance: scale s of uncond + s (cond - uncond); 1 is none.
    """

    class_id: int | None
    seed: int
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.class_id is not None:
            check_counts(self, ("class_id",), least=0)
        check_counts(self, ("seed",), least=0, most=MAX_SEED)
        check_number(self, "guidance", 0, MAX_GUIDANCE)


class FeatureHistory:
    """The latest features of a run and their divided differences, for a Taylor forecast.

    Args:
        order: of the series.
    """

    def __init__(self, order: int) -> None:
        self._order = order
        self._terms: list[Tensor] = []
        self._step = 0

    def update(self, step: int, features: Tensor) -> None:
        """Take in the features of a step, counted in the order of sampling."""
        terms = [features.float().clone()]
        for before in self._terms[: self._order]:
            terms.append((terms[-1] - before) / (step - self._step))
        self._terms, self._step = terms, step

    def forecast(self, step: int) -> Tensor:
        """Return the features that the series has at a later step, float32."""
        distance = step - self._step
        out = self._terms[0].clone()
        for power, term in enumerate(self._terms[1:], start=1):
            out += term * (distance**power / math.factorial(power))
        return out


class StepFactors(NamedTuple):
    """The factors of one step, each a number or a tensor that broadcasts.

    With x0 = signal x - noise eps, a step is x' = clean x0 + current x + direction eps + exp(v-th log variance / 2) n,
    whose last term `random` (0 or 1) switches; v interpolates from `low` to `high`.
    """

    signal: Tensor
    noise: Tensor
    clean: Tensor
    current: Tensor
    direction: Tensor
    low: Tensor
    high: Tensor
    random: Tensor


def step_factors(schedule: NoiseSchedule, sampler: SamplerName) -> Tensor:
    """Return the `StepFactors` of all steps, float32 (S, 8), index 0 the least noisy."""
    kept, before = schedule.alphas_cumprod, schedule.alphas_cumprod_before
    zero, low, high = torch.zeros_like(kept), *schedule.log_variance_range
    if sampler == "ddim":
        clean, current, direction, random = before.sqrt(), zero, (1 - before).sqrt(), zero
    else:
        clean, current = schedule.posterior_mean_factors
        direction, random = zero, (torch.arange(len(schedule)) > 0).double()
    factors = StepFactors(kept.rsqrt(), (1 / kept - 1).sqrt(), clean, current, direction, low, high, random)
    return torch.stack(factors, dim=1).float()


def denoise_step(x: Tensor, prediction: Tensor, factors: StepFactors, noise: Tensor | None) -> Tensor:
    """Take one step.

    Args:
        x: (B, t, h, w, C), float32.
        prediction: the guided output of the network (B, t, h, w, 2 C), float32.
        factors: of the step.
        noise: standard normal, as x; None for a sampler that adds none.
    """
    epsilon, share = prediction.chunk(2, dim=-1)
    clean = factors.signal * x - factors.noise * epsilon
    out = factors.clean * clean + factors.current * x + factors.direction * epsilon
    if noise is None:
        return out
    log_variance = factors.low + (share + 1) / 2 * (factors.high - factors.low)
    return out + factors.random * (log_variance / 2).exp() * noise


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor, channels: int) -> Tensor:
    """Mix two outputs of the network: uncond + s (cond - uncond) on leading channels, else the conditional one.

    Args:
        conditional, unconditional: (B, t, h, w, 2 C).
        scale: s of each item (B,); 1 returns the conditional output bit for bit.
        channels: leading channels of the noise that guidance acts on.
    """
    guided = conditional[..., :channels]
    # in this form the difference vanishes at s = 1
    mixed = guided + (scale - 1).view(-1, 1, 1, 1, 1) * (guided - unconditional[..., :channels])
    return torch.cat((mixed, conditional[..., channels:]), dim=-1)


def restore_latents(x: Tensor, config: DiffusionConfig) -> Tensor:
    """Return the tokenizer's latents, x / scale + shift, of what the network works on (..., C)."""
    shift, scale = (torch.tensor(value, device=x.device) for value in (config.latent_shift, config.latent_scale))
    return x / scale + shift
