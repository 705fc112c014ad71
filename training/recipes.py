"""Training recipes: typed, frozen, named; a variant is a `replace` of another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from model.tokenizer.config import CONFIGS, TokenizerConfig
from training.errors import TrainingError

MULTI_SIDES = (128, 192, 256, 320, 384)  # section 4: resolutions of joint training


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms that the tokenizer minimises (section 3.1.2); pixels lie in [-0.5, 0.5].

    Args:
        l2, l1: of the mean squared and absolute reconstruction errors.
        codebook, commitment: lambda 1 and lambda 2 of equation 1, for a VQ head. A codebook that is learned by moving
            averages has no codebook term.
        kl: lambda 3 of equation 2, for a VAE head; the divergence is summed over an item's latents.
        perceptual: of the perceptual distance.
        perceptual_network: what measures it: the packaged VGG trunk, or LPIPS weights given by path; "none" exactly
            where the weight is 0.
        image_adversarial, video_adversarial: of the hinge losses of the image and the video discriminator. A clip is
            judged by both, the image discriminator seeing single frames.
        feature_matching: of the distance between a discriminator's features, times that discriminator's own weight.
        clip_frames: frames of a clip that the perceptual distance and the image discriminator see, drawn anew for each
            clip and step.
    """

    l2: float = 1.0
    l1: float = 0.0
    codebook: float = 1.0
    commitment: float = 1.0
    kl: float = 1e-6
    perceptual: float = 0.0
    perceptual_network: Literal["none", "vgg", "lpips"] = "none"
    image_adversarial: float = 0.0
    video_adversarial: float = 0.0
    feature_matching: float = 0.0
    clip_frames: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "perceptual_network" and not (0 <= value < math.inf):
                raise TrainingError(f"the loss weight {name} must be a number from 0, not {value!r}")
        if self.perceptual_network not in ("none", "vgg", "lpips"):
            raise TrainingError(f"the perceptual network is none, vgg or lpips, not {self.perceptual_network!r}")
        if (self.perceptual > 0) != (self.perceptual_network != "none"):
            raise TrainingError(f"a perceptual weight of {self.perceptual} with network {self.perceptual_network!r}")
        if self.l1 + self.l2 == 0:
            raise TrainingError("a tokenizer is trained to reconstruct: l1 or l2 must be above 0")
        if self.clip_frames < 1:
            raise TrainingError(f"at least one frame of a clip is judged, not {self.clip_frames}")


@dataclass(frozen=True)
class Discriminators:
    """The two patch discriminators of a stage and how they are trained; there are none without adversarial weights.

    Args:
        start: steps of the stage before the adversarial part sets in.
        every: the discriminators learn at every so many steps; the tokenizer hears them at all.
        learning_rate: peak, warmed up from `start` as the tokenizer's is from 0, and brought to zero with it.
        channels: of the first layer, a multiple of 32; doubled from layer to layer.
        layers: strided layers.
    """

    start: int = 0
    every: int = 1
    learning_rate: float = 2e-4
    channels: int = 64
    layers: int = 3

    def __post_init__(self) -> None:
        counts = (self.every, self.channels, self.layers)
        if self.start < 0 or min(counts) < 1 or self.channels % 32 or self.learning_rate <= 0:
            raise TrainingError(f"no discriminators can be trained as {self}")


@dataclass(frozen=True)
class Stage:
    """One stage of progressive training (section 3.1.2).

    Args:
        name: of the stage and of its folder.
        head: what stands between encoder and decoder: "vq" (equation 1) or "vae" (equation 2).
        steps: length; a run may be given another.
        images, clips: items of an image step and of a clip step at `base_side`, over all ranks and micro-batches; 0 for
            none. Where both are above 0, images and clips take turns, images first (section 4: "iteratively").
        sides: sides of the squares in pixels, one of which is drawn for each step.
        clip_sides: the same for clips, where the data has smaller ones; none for those of `sides`.
        base_side: the side at which items are counted. Another side s has (base_side / s)^2 times the items, rounded
            to a multiple of `multiple`, so that tokens per step stay about constant.
        multiple: every batch is a multiple of this, which ranks times micro-batches must divide.
        frames: of a clip, 1 + k * temporal_patch.
        learning_rate: peak, reached after `warmup` steps and brought to zero by a cosine over the stage (section 4).
        warmup: steps; never a share of the time, much of which may go into compiling.
        betas: of Adam (section 4).
        ema: decay of the averaged weights, which are what a bundle holds.
        clip_norm: bound of the gradient's norm.
        accumulate: micro-batches into which a rank splits its share of a batch.
        precision: "bf16" runs encoder, decoder and discriminators under autocast on CUDA, the head in float32; a CPU
            computes in float32 always.
        losses: weights of the terms.
        discriminators: the adversarial part.
        codebook_rule: how codes are learned: "gradient", as equation 1 says, or "ema", by moving averages of the
            vectors that chose them.
        codebook_decay: of these averages.
        revive_after: steps without use after which a code is moved to a current vector.
        plain: steps before quantisation sets in, where a stage does not take over a codebook. Equation 1 only pulls
            vectors and codes together: from a random start they would meet in one point, so the decoder first learns
            to need vectors that differ. The codebook then starts from the vectors of a batch.
    """

    name: str
    head: Literal["vq", "vae"]
    steps: int
    images: int = 0
    clips: int = 0
    sides: tuple[int, ...] = (256,)
    clip_sides: tuple[int, ...] = ()
    base_side: int = 256
    multiple: int = 1
    frames: int = 17
    learning_rate: float = 1e-3
    warmup: int = 500
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.999
    clip_norm: float = 1.0
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "bf16"
    losses: LossWeights = field(default_factory=LossWeights)
    discriminators: Discriminators = field(default_factory=Discriminators)
    codebook_rule: Literal["gradient", "ema"] = "gradient"
    codebook_decay: float = 0.99
    revive_after: int = 200
    plain: int = 0

    def __post_init__(self) -> None:
        if not self.name or set(self.name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_"):
            raise TrainingError(f"a stage is named by small letters, digits, '-' and '_', not {self.name!r}")
        choices = {"head": ("vq", "vae"), "precision": ("fp32", "bf16"), "codebook_rule": ("gradient", "ema")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise TrainingError(f"stage {self.name}: {name} is {' or '.join(known)}, not {getattr(self, name)!r}")
        positive = ("steps", "base_side", "multiple", "frames", "warmup", "accumulate", "revive_after")
        for name in positive:
            if getattr(self, name) < 1:
                raise TrainingError(f"stage {self.name}: {name} must be at least 1, not {getattr(self, name)}")
        if min(self.images, self.clips, self.plain) < 0 or self.images + self.clips == 0:
            raise TrainingError(f"stage {self.name} trains on {self.images} images and {self.clips} clips a step")
        sides = (*self.sides, *self.clip_sides)
        if not self.sides or min(sides) < 1:
            raise TrainingError(f"stage {self.name} needs sides in pixels, not {sides}")
        smallest = 3 * 2**self.discriminators.layers
        if self.adversarial and min(sides) < smallest:
            raise TrainingError(
                f"stage {self.name}: discriminators of {self.discriminators.layers} layers need squares of at least "
                f"{smallest} pixels, not {min(sides)}"
            )
        if min(self.learning_rate, self.clip_norm) <= 0:
            raise TrainingError(f"stage {self.name}: learning rate and gradient bound must be above 0")
        if not all(0 <= value < 1 for value in (*self.betas, self.ema, self.codebook_decay)):
            raise TrainingError(f"stage {self.name}: decays lie in [0, 1)")

    @property
    def adversarial(self) -> bool:
        """Return whether any discriminator has a part in this stage."""
        return self.losses.image_adversarial > 0 or (self.losses.video_adversarial > 0 and self.clips > 0)

    def sides_of(self, kind: Literal["images", "clips"]) -> tuple[int, ...]:
        """Sides that a step of a kind may have."""
        return self.clip_sides or self.sides if kind == "clips" else self.sides

    def items(self, kind: Literal["images", "clips"], side: int) -> int:
        """Items of a step of a kind at a side, over all ranks and micro-batches."""
        counted = self.images if kind == "images" else self.clips
        exact = counted * (self.base_side / side) ** 2
        return self.multiple * max(1, round(exact / self.multiple))


@dataclass(frozen=True)
class Recipe:
    """A training recipe: the tokenizer's geometry and the stages of its training.

    Args:
        tokenizer: the geometry, with the VQ head; a VAE stage has as many latent channels as a code has dimensions.
        stages: in the order of training; each takes over the weights of the one before.
        seed: of weights, data and draws.
        licence: of the weights, where the recipe has data of its own; None where that is for the data's owner to say.

    Raises:
        TrainingError: no VQ head, no stages, two of one name, or sides and frames that do not fit the patches.
    """

    tokenizer: TokenizerConfig
    stages: tuple[Stage, ...]
    seed: int = 0
    licence: str | None = None

    def __post_init__(self) -> None:
        if not self.tokenizer.is_vq:
            raise TrainingError("a recipe's tokenizer names the codebook, also where its stages end in a VAE")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise TrainingError(f"a recipe has stages of different names, not {names}")
        patch, temporal = self.tokenizer.patch, self.tokenizer.temporal_patch
        for stage in self.stages:
            if wrong := [side for side in (*stage.sides, *stage.clip_sides, stage.base_side) if side % patch]:
                raise TrainingError(f"stage {stage.name}: sides {wrong} are not multiples of the patch {patch}")
            if (stage.frames - 1) % temporal:
                raise TrainingError(f"stage {stage.name}: clips have 1 + k * {temporal} frames, not {stage.frames}")

    def stage(self, name: str) -> Stage:
        """The stage of a name.

        Raises:
            TrainingError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise TrainingError(f"there is no stage {name!r}; known are {', '.join(stage.name for stage in self.stages)}")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready data."""
        return _plain(asdict(self) | {"tokenizer": self.tokenizer.to_dict()})


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _demo() -> Recipe:
    """A small causal tokenizer: minutes on one GPU for each stage."""
    image = Stage(
        name="image", head="vq", steps=3_000, images=96, sides=(128,), base_side=128, multiple=2,
        learning_rate=8e-4, warmup=500, plain=300, losses=LossWeights(l2=20.0, l1=2.0),
    )  # fmt: skip
    joint = replace(image, name="joint", steps=16_000, clips=16, sides=(64, 128, 256), clip_sides=(128,), plain=0)
    kl = replace(joint, name="kl", head="vae", steps=6_000, learning_rate=4e-4)
    return Recipe(CONFIGS["demo"], (image, joint, kl), licence="Apache-2.0")


def _paper() -> Recipe:
    """Section 4 on ImageNet and UCF-101: what the text gives, the rest as commonly set."""
    losses = LossWeights(
        l2=1.0, perceptual=1.0, perceptual_network="vgg",
        image_adversarial=0.1, video_adversarial=0.1, feature_matching=1.0,
    )  # fmt: skip
    image = Stage(
        name="image", head="vq", steps=500_000, images=256, multiple=8, warmup=10_000, ema=0.9999, plain=1_000,
        losses=losses, discriminators=Discriminators(start=20_000),
    )  # fmt: skip
    joint = replace(
        image, name="joint", clips=32, sides=MULTI_SIDES, plain=0, discriminators=replace(image.discriminators, start=0)
    )
    return Recipe(CONFIGS["paper"], (image, joint, replace(joint, name="kl", head="vae")))


def _debug() -> Recipe:
    """Every part of the trainer in seconds on a CPU."""
    losses = LossWeights(l2=20.0, l1=2.0, image_adversarial=0.02, video_adversarial=0.02, feature_matching=0.5)
    image = Stage(
        name="image", head="vq", steps=60, images=4, sides=(32,), base_side=32, multiple=2, frames=5,
        learning_rate=3e-3, warmup=10, ema=0.9, precision="fp32", losses=losses,
        discriminators=Discriminators(start=30, every=2, channels=32, layers=2), revive_after=10, plain=20,
    )  # fmt: skip
    joint = replace(image, name="joint", clips=2, sides=(32, 48), plain=0)
    return Recipe(CONFIGS["debug"], (image, joint, replace(joint, name="kl", head="vae")))


RECIPES: dict[str, Recipe] = {"demo": _demo(), "paper-imagenet-ucf": _paper(), "debug": _debug()}
