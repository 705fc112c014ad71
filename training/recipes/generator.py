"""Recipes of generators: the network's sizes and how it is trained; codes, classes and grid come with the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from media.kinds import Kind
from model.generator.config import GENERATOR_CONFIGS, GeneratorConfig, LanguageModelConfig
from training.errors import TrainingError
from training.recipes.stage import BaseStage


@dataclass(frozen=True, kw_only=True)
class GeneratorStage(BaseStage):
    """The training of a generator (section 3.2).

    Args:
        resolution: side of the squares in pixels.
        weight_decay: of matrices, decoupled from the gradient (AdamW).
        label_dropout: share of items whose class becomes the null class, which guidance needs.
    """

    resolution: int = 256
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    ema_decay: float = 0.9999
    label_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(1, ("resolution",))
        self._check_least(0, ("weight_decay",))
        self._check_shares({"label_dropout": (self.label_dropout,)})

    def resolutions_of(self, kind: Kind) -> tuple[int, ...]:
        """Return the resolutions that a step of a kind may have."""
        return (self.resolution,)

    def batch_size(self, kind: Kind, resolution: int) -> int:
        """Return the items of a step of a kind, over all ranks and micro-batches."""
        return self.image_batch_size if kind == "images" else self.clip_batch_size


@dataclass(frozen=True)
class GeneratorRecipe:
    """A generator's network and its training.

    Args:
        network: sizes of the network; codebook, classes and grid are replaced by those of the data.
        stages: one stage.
        seed: of weights, data and draws.
        licence: of the weights, where the recipe has data of its own; None where that is for the data's owner to say.
        codes: hash of the description of the codes that the network is trained on; None before they are known.
    """

    network: GeneratorConfig
    stages: tuple[GeneratorStage, ...]
    seed: int = 0
    licence: str | None = None
    codes: str | None = None

    def __post_init__(self) -> None:
        if len(self.stages) != 1:
            raise TrainingError(f"A generator is trained in one stage, not {len(self.stages)}.")

    def stage(self, name: str) -> GeneratorStage:
        """Return the stage of a name.

        Raises:
            TrainingError: the recipe has no such stage.
        """
        (stage,) = self.stages
        if stage.name != name:
            raise TrainingError(f"There is no stage {name!r}; known are {stage.name}.")
        return stage

    def check_kind(self, kind: Literal["tokens", "latents"]) -> None:
        """Refuse "tokens" for a diffusion model and "latents" for a language model.

        Raises:
            TrainingError: the recipe trains on the other kind.
        """
        wanted = "tokens" if isinstance(self.network, LanguageModelConfig) else "latents"
        if kind != wanted:
            head = {"tokens": "VQ", "latents": "VAE"}[wanted]
            raise TrainingError(f"This recipe trains on {wanted}, not on {kind}: name a {head} tokenizer.")

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON gives it back."""
        stages = [asdict(stage) | {"betas": list(stage.betas)} for stage in self.stages]
        return asdict(self) | {"network": self.network.to_dict(), "stages": stages}


def _lm_debug() -> GeneratorRecipe:
    """Build a recipe that trains on a CPU in seconds."""
    stage = GeneratorStage(
        name="lm", steps=150, image_batch_size=16, clip_batch_size=4, resolution=32, frames=5, learning_rate=3e-3,
        warmup_steps=10, ema_decay=0.95, precision="fp32",
    )  # fmt: skip
    return GeneratorRecipe(GENERATOR_CONFIGS["lm-debug"], (stage,))


def _lm_demo() -> GeneratorRecipe:
    """Build the recipe of the demo bundle: images and clips in one model, minutes on one GPU.

    Its data is `omnitok data build play`, without mirror images. On 9,600 other clips nine epochs left the held-out
    loss 0.8 nats above that of training, so the network stays small.
    """
    stage = GeneratorStage(
        name="lm", steps=20_000, image_batch_size=128, clip_batch_size=32, resolution=128, learning_rate=1e-3,
        weight_decay=0.1, ema_decay=0.999,
    )  # fmt: skip
    return GeneratorRecipe(GENERATOR_CONFIGS["lm-demo"], (stage,), licence="Apache-2.0")


def _lm_650m() -> GeneratorRecipe:
    """Build the recipe of the paper's large language model on ImageNet: common settings where it gives none."""
    stage = GeneratorStage(
        name="lm", steps=300_000, image_batch_size=256, learning_rate=1e-4, warmup_steps=5_000, weight_decay=0.05
    )
    return GeneratorRecipe(GENERATOR_CONFIGS["lm-650m"], (stage,))


def _dit_debug() -> GeneratorRecipe:
    """Build a recipe of diffusion that trains on a CPU in seconds."""
    stage = GeneratorStage(
        name="dit", steps=400, image_batch_size=16, resolution=32, frames=5, learning_rate=3e-3, warmup_steps=10,
        betas=(0.9, 0.99), ema_decay=0.95, precision="fp32",
    )  # fmt: skip
    return GeneratorRecipe(GENERATOR_CONFIGS["dit-debug"], (stage,))


def _dit_demo() -> GeneratorRecipe:
    """Build the recipe of the demo bundle of diffusion, minutes on one GPU."""
    stage = GeneratorStage(
        name="dit", steps=30_000, image_batch_size=256, resolution=128, learning_rate=8e-4, betas=(0.9, 0.99),
        ema_decay=0.999,
    )  # fmt: skip
    return GeneratorRecipe(GENERATOR_CONFIGS["dit-demo"], (stage,), licence="Apache-2.0")


def _latte_demo() -> GeneratorRecipe:
    """Build the recipe of the demo bundle of diffusion for clips; steps on images alternate with those on clips."""
    recipe = _dit_demo()
    stage = replace(recipe.stages[0], name="latte", steps=45_000, image_batch_size=64, clip_batch_size=32)
    return replace(recipe, network=GENERATOR_CONFIGS["latte-demo"], stages=(stage,))


def _dit_xl() -> GeneratorRecipe:
    """Build the recipe of DiT-XL/2 on ImageNet; a constant rate of 1e-4 in its paper, here with a cosine at its end."""
    stage = GeneratorStage(
        name="dit", steps=400_000, image_batch_size=256, learning_rate=1e-4, betas=(0.9, 0.999), ema_decay=0.9999
    )
    return GeneratorRecipe(GENERATOR_CONFIGS["dit-xl/2"], (stage,))


def _latte_xl() -> GeneratorRecipe:
    """Build the recipe of Latte-XL/2 on UCF-101: clips of 17 frames alone."""
    stage = replace(_dit_xl().stages[0], name="latte", image_batch_size=0, clip_batch_size=32)
    return GeneratorRecipe(GENERATOR_CONFIGS["latte-xl/2"], (stage,))


GENERATOR_RECIPES: dict[str, GeneratorRecipe] = {
    "lm-debug": _lm_debug(),
    "lm-demo": _lm_demo(),
    "lm-650m": _lm_650m(),
    "dit-debug": _dit_debug(),
    "dit-demo": _dit_demo(),
    "latte-demo": _latte_demo(),
    "dit-xl": _dit_xl(),
    "latte-xl": _latte_xl(),
}
