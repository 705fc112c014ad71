"""The frozen config of a diffusion transformer, its checks, and the table of named ones (section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from model.config_checks import MAX_LAYERS, ConfigError, check_counts, check_grid, check_number, strict
from model.generator.limits import MAX_GUIDANCE, MIN_TIMESTEPS

SamplerName = Literal["ddim", "ddpm"]
PUBLISHED_SCALE = 0.18215  # of the latents that the released DiT and Latte files were trained on


@dataclass(frozen=True)
class DiffusionDefaults:
    """The sampling that a diffusion model is meant for, where a request asks for no other.

    Args:
        steps: denoising steps, at most the model's `timesteps`.
        guidance: scale s of classifier-free guidance; 1 is none.
        sampler: "ddim" (deterministic) or "ddpm".
    """

    steps: int = 50
    guidance: float = 1.5
    sampler: SamplerName = "ddim"

    def __post_init__(self) -> None:
        check_counts(self, ("steps",))
        check_number(self, "guidance", 0, MAX_GUIDANCE)
        check_sampler(self.sampler)


def check_sampler(sampler: object) -> None:
    """Refuse an unknown sampler.

    Raises:
        ConfigError: with the value.
    """
    if sampler not in get_args(SamplerName):
        raise ConfigError(f"sampler must be one of {', '.join(get_args(SamplerName))}, not {sampler!r}.")


@dataclass(frozen=True)
class DiffusionConfig:
    """A transformer that denoises the latents of a VAE tokenizer: DiT for images, Latte for clips (section 3.2).

    The network works on normalised latents x = (z - latent_shift) * latent_scale of latents z.

    Args:
        layers: transformer blocks; with more than one latent frame every second one attends along time.
        width, heads: channels of a token, and attention heads among them.
        patch: side of a token in latent positions.
        channels: of a latent position.
        grid: latent frames, height and width; one frame is DiT, more are Latte.
        classes: number of classes; the id that follows the last one is the null class of guidance.
        mlp_ratio: inner width of a feed-forward layer, in widths.
        latent_scale, latent_shift: one number each, or one a channel.
        guidance_channels: leading latent channels that guidance acts on; None is all of them, the published samplers
            took 3 (DiT) and 4 (Latte).
        timesteps: of the noise schedule, whose betas are linear from 1e-4 to 0.02.
        images: whether a model of clips was trained on images too, clips of one latent frame.
        sampling: defaults of sampling.
    """

    layers: int
    width: int
    heads: int
    grid: tuple[int, int, int]
    classes: int
    patch: int = 2
    channels: int = 8
    mlp_ratio: int = 4
    latent_scale: float | tuple[float, ...] = PUBLISHED_SCALE
    latent_shift: float | tuple[float, ...] = 0.0
    guidance_channels: int | None = None
    timesteps: int = 1000
    images: bool = True
    sampling: DiffusionDefaults = DiffusionDefaults()

    def __post_init__(self) -> None:
        check_counts(self, ("width", "heads", "patch", "channels", "classes", "mlp_ratio"))
        check_counts(self, ("layers",), most=MAX_LAYERS)
        check_counts(self, ("timesteps",), least=MIN_TIMESTEPS, most=10_000)
        check_grid(self.grid)
        if self.grid[1] % self.patch or self.grid[2] % self.patch:
            raise ConfigError(f"grid={self.grid} must be a multiple of patch={self.patch} in height and width.")
        if self.width % self.heads or self.width % 4:
            raise ConfigError(f"width={self.width} must be a multiple of heads={self.heads} and of 4.")
        for name in ("latent_scale", "latent_shift"):
            self._check_latent(name)
        if self.guidance_channels is not None:
            check_counts(self, ("guidance_channels",), most=self.channels)
        if type(self.images) is not bool or (self.grid[0] == 1 and not self.images):
            raise ConfigError(f"images must be true or, of a model of clips, false, not {self.images!r}.")
        if not isinstance(self.sampling, DiffusionDefaults):
            raise ConfigError(f"sampling must be DiffusionDefaults, not {self.sampling!r}.")
        if self.sampling.steps > self.timesteps:
            raise ConfigError(f"sampling.steps={self.sampling.steps} must be at most timesteps={self.timesteps}.")

    def _check_latent(self, name: str) -> None:
        value = getattr(self, name)
        numbers = value if isinstance(value, tuple) else (value,)
        good = all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        if not good or (isinstance(value, tuple) and len(value) != self.channels):
            raise ConfigError(f"{name} must be a finite number, or {self.channels} of them, not {value!r}.")
        if name == "latent_scale" and min(numbers) <= 0:
            raise ConfigError(f"latent_scale must be positive, not {value!r}.")

    @property
    def null_class(self) -> int:
        """Return the class id of samples without a class."""
        return self.classes

    @property
    def head_dim(self) -> int:
        """Return the width of an attention head."""
        return self.width // self.heads

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Return the grid of tokens."""
        return self.grid[0], self.grid[1] // self.patch, self.grid[2] // self.patch

    def attends_along_time(self, layer: int) -> bool:
        """Return whether a block attends along time: every second one where there is more than one frame."""
        return self.grid[0] > 1 and layer % 2 == 1

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data; `generator_config` reads it back."""
        data = {"kind": "diffusion"} | asdict(self)
        if self.images:
            del data["images"]  # which bundles did not always state: one that is made again keeps its hash
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DiffusionConfig:
        """Build a config from JSON data, without its kind.

        Raises:
            ConfigError: unknown keys, or values that describe no model.
        """
        values = strict(cls, data)
        for name in ("grid", "latent_scale", "latent_shift"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        if "sampling" in values:
            values["sampling"] = DiffusionDefaults(**strict(DiffusionDefaults, values["sampling"]))
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"DiffusionConfig: {error}") from error


_dit_xl = DiffusionConfig(layers=28, width=1152, heads=16, grid=(1, 32, 32), classes=1000, guidance_channels=3)
_demo = DiffusionConfig(
    layers=12, width=320, heads=5, grid=(1, 16, 16), classes=16, sampling=DiffusionDefaults(guidance=4.0)
)
_debug = DiffusionConfig(layers=2, width=32, heads=2, grid=(1, 8, 8), classes=4, channels=4)

DIFFUSION_CONFIGS: dict[str, DiffusionConfig] = {
    # as released: guidance on part of the latent channels only
    "dit-xl/2": _dit_xl,
    "latte-xl/2": replace(_dit_xl, grid=(5, 32, 32), classes=101, images=False, guidance_channels=4),
    # of the demo tokenizer at 128 x 128 pixels and 17 frames, in half precision 46 MB; at width 256 it had the
    # same loss on held-out items as on those of training
    "dit-demo": _demo,
    "latte-demo": replace(_demo, grid=(5, 16, 16)),
    # milliseconds on a CPU; for tests
    "dit-debug": _debug,
    "latte-debug": replace(_debug, grid=(3, 8, 8)),
}
