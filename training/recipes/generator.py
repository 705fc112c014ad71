"""Recipes of generators: the network's sizes and how it is trained; codes, classes and grid come with the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from model.generator.config import GENERATOR_CONFIGS, GeneratorConfig
from training.data.media_types import Kind
from training.errors import TrainingError


@dataclass(frozen=True)
class GeneratorStage:
    """The training of a generator (section 3.2).

    Args:
        name: of the stage and of its folder.
        steps: length; a run may be given another.
        image_batch_size, clip_batch_size: items of an image step and of a clip step, over all ranks and micro-batches;
            0 for none. With both, steps alternate, images first.
        resolution: side of the squares in pixels.
        frames: of a clip.
        learning_rate: peak, brought to zero by a cosine.
        warmup_steps: linear warm-up.
        betas: of Adam.
        weight_decay: of matrices, decoupled from the gradient (AdamW).
        ema_decay: of the averaged weights, which are what a bundle holds.
        max_grad_norm: bound of the gradient's norm.
        gradient_accumulation_steps: micro-batches into which a rank splits its share of a batch.
        precision: "bf16" runs the network under autocast on CUDA; a CPU computes in float32 always.
        label_dropout: share of items whose class becomes the null class, which guidance needs.
    """

    name: str
    steps: int
    image_batch_size: int = 0
    clip_batch_size: int = 0
    resolution: int = 256
    frames: int = 17
    learning_rate: float = 3e-4
    warmup_steps: int = 500
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    ema_decay: float = 0.9999
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    precision: Literal["fp32", "bf16"] = "bf16"
    label_dropout: float = 0.1

    def __post_init__(self) -> None:
        positive = ("steps", "resolution", "frames", "warmup_steps", "gradient_accumulation_steps")
        for name in positive:
            if getattr(self, name) < 1:
                raise TrainingError(f"Stage {self.name}: {name} must be at least 1, not {getattr(self, name)}.")
        images, clips = self.image_batch_size, self.clip_batch_size
        if min(images, clips) < 0 or images + clips == 0:
            raise TrainingError(f"Stage {self.name} trains on {images} images and {clips} clips a step.")
        if self.precision not in ("fp32", "bf16"):
            raise TrainingError(f"Stage {self.name}: precision is fp32 or bf16, not {self.precision!r}.")
        if min(self.learning_rate, self.max_grad_norm) <= 0 or self.weight_decay < 0:
            raise TrainingError(
                f"Stage {self.name}: learning_rate {self.learning_rate} and max_grad_norm {self.max_grad_norm} must be "
                f"above 0, weight_decay {self.weight_decay} at least 0."
            )
        if not all(0 <= value < 1 for value in (*self.betas, self.ema_decay, self.label_dropout)):
            raise TrainingError(f"Stage {self.name}: decays and label_dropout must be in [0, 1).")

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
            raise TrainingError(f"there is no stage {name!r}; known are {stage.name}")
        return stage

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
    """Build the recipe of the demo bundle: images and clips in one model, minutes on one GPU."""
    stage = GeneratorStage(
        name="lm", steps=20_000, image_batch_size=128, clip_batch_size=32, resolution=128, learning_rate=1e-3,
        weight_decay=0.05, ema_decay=0.999,
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
        name="dit", steps=30_000, image_batch_size=256, resolution=128, learning_rate=5e-4, betas=(0.9, 0.99),
        ema_decay=0.999,
    )  # fmt: skip
    return GeneratorRecipe(GENERATOR_CONFIGS["dit-demo"], (stage,), licence="Apache-2.0")


def _latte_demo() -> GeneratorRecipe:
    """Build the recipe of the demo bundle of diffusion for clips; steps on images alternate with those on clips."""
    recipe = _dit_demo()
    stage = replace(recipe.stages[0], name="latte", image_batch_size=128, clip_batch_size=64)
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
