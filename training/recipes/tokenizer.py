"""Recipes of tokenizers: the network, the losses and the stages of each."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from media.kinds import Kind
from model.tokenizer.config import CONFIGS, TokenizerConfig
from training.errors import TrainingError
from training.recipes.stage import BaseStage

MULTI_RESOLUTIONS = (128, 192, 256, 320, 384)  # section 4: resolutions of joint training
RENAMED_SETTINGS = {
    "accumulate": "gradient_accumulation_steps",
    "base_side": "base_resolution",
    "clip_norm": "max_grad_norm",
    "clip_sides": "clip_resolutions",
    "clips": "clip_batch_size",
    "codebook_rule": "codebook_update",
    "ema": "ema_decay",
    "images": "image_batch_size",
    "multiple": "batch_multiple",
    "plain": "unquantized_steps",
    "revive_after": "dead_code_steps",
    "sides": "resolutions",
    "warmup": "warmup_steps",
}


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms that the tokenizer minimises (section 3.1.2), for pixels in [-0.5, 0.5].

    Args:
        l2, l1: of the mean squared and absolute reconstruction errors.
        codebook, commitment: lambda 1 and lambda 2 of equation 1, for a VQ head. A codebook that is learned by moving
            averages has no codebook term.
        kl: lambda 3 of equation 2, for a VAE head; the divergence is summed over an item's latents.
        perceptual: of the perceptual distance.
        perceptual_network: of that distance: the packaged VGG trunk, or LPIPS weights given by path; "none" exactly
            where the weight is 0.
        image_adversarial, video_adversarial: of the hinge losses of the image and the video discriminator. Both judge
            a clip; the image discriminator sees single frames of it.
        feature_matching: of the distance between a discriminator's features, times that discriminator's own weight.
        clip_frames: frames of a clip that the perceptual distance and the image discriminator see, drawn at random.
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
                raise TrainingError(f"The loss weight {name} must be a number from 0, not {value!r}.")
        if self.perceptual_network not in ("none", "vgg", "lpips"):
            raise TrainingError(f"perceptual_network must be none, vgg or lpips, not {self.perceptual_network!r}.")
        if (self.perceptual > 0) != (self.perceptual_network != "none"):
            raise TrainingError(
                f"perceptual={self.perceptual} and perceptual_network={self.perceptual_network!r} do not go together: "
                "the network is none exactly where the weight is 0."
            )
        if self.l1 + self.l2 == 0:
            raise TrainingError("A tokenizer is trained to reconstruct: l1 or l2 must be above 0.")
        if self.clip_frames < 1:
            raise TrainingError(f"clip_frames must be at least 1, not {self.clip_frames}.")


@dataclass(frozen=True)
class Discriminators:
    """The two patch discriminators of a stage; a stage without adversarial weights has none.

    Args:
        start: steps of the stage before the adversarial part sets in.
        every: steps of each kind of batch from one update of the discriminators to the next; the tokenizer hears them
            at each step.
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
        are_counts = self.start >= 0 and all(count >= 1 for count in (self.every, self.channels, self.layers))
        if not (are_counts and self.learning_rate > 0) or self.channels % 32:
            raise TrainingError(
                f"{self} must have start of at least 0, every and layers of at least 1, channels a multiple of 32, "
                "and learning_rate above 0."
            )


@dataclass(frozen=True, kw_only=True)
class Stage(BaseStage):
    """One stage of progressive training (section 3.1.2); its batch sizes hold at `base_resolution`.

    Args:
        head: between encoder and decoder: "vq" (equation 1) or "vae" (equation 2). It computes in float32 always.
        latent_channels: of a VAE head; as many as a code has dimensions where it is 0. A stage may have more than the
            one before it: the decoder ignores the new ones at first.
        after: name of the stage whose weights it takes over; the one before it if empty.
        decoder_only: train the decoder, and the head's projection to it, of a tokenizer with the same head. The rest is
            frozen, so that codes stay what they are, and no gradient is computed for it.
        resolutions: sides of the squares in pixels, one of which is drawn for each step.
        clip_resolutions: the same for clips, where the data has smaller ones; none for `resolutions`.
        base_resolution: where the batch sizes hold. Another resolution r has (base_resolution / r)^2 times the items,
            so that tokens per step stay about constant.
        batch_multiple: every batch is a multiple of this, which ranks times micro-batches must divide.
        losses: weights of the terms.
        discriminators: the adversarial part.
        codebook_update: "gradient", as equation 1 says, or "ema", by moving averages of the vectors that chose a code.
        codebook_decay: of these averages.
        dead_code_steps: steps without use after which a code is moved to a current vector.
        unquantized_steps: steps before quantisation, where a stage does not take over a codebook. Equation 1 only pulls
            vectors and codes together: from a random start they would meet in one point, so the decoder first learns
            to need vectors that differ. The codebook then starts from the vectors of a batch.
    """

    head: Literal["vq", "vae"]
    latent_channels: int = 0
    after: str = ""
    decoder_only: bool = False
    resolutions: tuple[int, ...] = (256,)
    clip_resolutions: tuple[int, ...] = ()
    base_resolution: int = 256
    batch_multiple: int = 1
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float = 0.999
    losses: LossWeights = field(default_factory=LossWeights)
    discriminators: Discriminators = field(default_factory=Discriminators)
    codebook_update: Literal["gradient", "ema"] = "gradient"
    codebook_decay: float = 0.99
    dead_code_steps: int = 200
    unquantized_steps: int = 0

    def __new__(cls, *args: Any, **settings: Any) -> Stage:
        """Refuse names of earlier versions.

        Raises:
            TrainingError: with the name of today.
        """
        if old := next((name for name in settings if name in RENAMED_SETTINGS), None):
            raise TrainingError(f"The setting {old!r} of a stage is now called {RENAMED_SETTINGS[old]!r}.")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("head", ("vq", "vae"))
        self._check_choice("codebook_update", ("gradient", "ema"))
        self._check_least(1, ("base_resolution", "batch_multiple", "dead_code_steps"))
        self._check_least(0, ("unquantized_steps", "latent_channels"))
        if self.latent_channels and self.head == "vq":
            raise TrainingError(f"Stage {self.name}: {self.latent_channels} latent channels need the head vae, not vq.")
        self._check_shares({"codebook_decay": (self.codebook_decay,)})
        resolutions = (*self.resolutions, *self.clip_resolutions)
        if not self.resolutions or not all(side >= 1 for side in resolutions):
            raise TrainingError(f"Stage {self.name} needs resolutions in pixels, not {resolutions}.")
        smallest = 3 * 2**self.discriminators.layers
        if self.adversarial and min(resolutions) < smallest:
            raise TrainingError(
                f"Stage {self.name}: discriminators of {self.discriminators.layers} layers need squares of at least "
                f"{smallest} pixels, not {min(resolutions)}."
            )

    @property
    def adversarial(self) -> bool:
        """Return whether any discriminator has a part in this stage."""
        return self.losses.image_adversarial > 0 or (self.losses.video_adversarial > 0 and self.clip_batch_size > 0)

    def resolutions_of(self, kind: Kind) -> tuple[int, ...]:
        """Return the resolutions that a step of a kind may have."""
        return self.clip_resolutions or self.resolutions if kind == "clips" else self.resolutions

    def batch_size(self, kind: Kind, resolution: int) -> int:
        """Return the items of a step of a kind at a resolution, over all ranks and micro-batches."""
        size = self.image_batch_size if kind == "images" else self.clip_batch_size
        exact = size * (self.base_resolution / resolution) ** 2
        return self.batch_multiple * max(1, round(exact / self.batch_multiple))


@dataclass(frozen=True)
class Recipe:
    """A training recipe: the tokenizer's geometry and the stages of its training.

    Args:
        tokenizer: the geometry, with the VQ head.
        stages: in the order of training; each takes over the weights of an earlier one.
        seed: of weights, data and draws.
        licence: of the weights, where the recipe has data of its own; None where that is for the data's owner to say.

    Raises:
        TrainingError: the head is not VQ, names of stages repeat, or resolutions and frames do not fit the patches.
    """

    tokenizer: TokenizerConfig
    stages: tuple[Stage, ...]
    seed: int = 0
    licence: str | None = None

    def __post_init__(self) -> None:
        if not self.tokenizer.is_vq:
            raise TrainingError("A recipe's tokenizer names the codebook, also where its stages end in a VAE.")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise TrainingError(f"A recipe has stages of different names, not {names}.")
        patch, temporal = self.tokenizer.patch, self.tokenizer.temporal_patch
        for index, stage in enumerate(self.stages):
            if stage.after and stage.after not in names[:index]:
                raise TrainingError(f"Stage {stage.name} begins after {stage.after!r}, not one of {names[:index]}.")
            self._check_decoder_only(stage)
            resolutions = (*stage.resolutions, *stage.clip_resolutions, stage.base_resolution)
            if wrong := [resolution for resolution in resolutions if resolution % patch]:
                raise TrainingError(f"Stage {stage.name}: resolutions {wrong} are not multiples of the patch {patch}.")
            if (stage.frames - 1) % temporal:
                raise TrainingError(f"Stage {stage.name}: clips have 1 + k * {temporal} frames, not {stage.frames}.")

    def _check_decoder_only(self, stage: Stage) -> None:
        """Refuse a stage that freezes an encoder that nothing trained, or under another head than it has."""
        if not stage.decoder_only:
            return
        before = self.before(stage)
        if before is None or (before.head, before.latent_channels) != (stage.head, stage.latent_channels):
            raise TrainingError(
                f"Stage {stage.name} trains the decoder alone: put it after a stage with the same head and channels."
            )

    def stage(self, name: str) -> Stage:
        """Return the stage of a name.

        Raises:
            TrainingError: the recipe has no such stage.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise TrainingError(f"There is no stage {name!r}; known are {', '.join(stage.name for stage in self.stages)}.")

    def before(self, stage: Stage) -> Stage | None:
        """Return the stage whose weights a stage takes over; None for the first."""
        if stage.after:
            return self.stage(stage.after)
        index = self.stages.index(stage)
        return self.stages[index - 1] if index else None

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON gives it back: tuples are lists."""
        return _without_tuples(asdict(self) | {"tokenizer": self.tokenizer.to_dict()})


def rename_settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a recipe, as `Recipe.to_dict` made it in any version, as it is written today."""
    stages = [{RENAMED_SETTINGS.get(name, name): value for name, value in stage.items()} for stage in recipe["stages"]]
    later = {"latent_channels": 0, "decoder_only": False}  # settings that older records lack
    is_diffusion = recipe.get("network", {}).get("kind") == "diffusion"
    if is_diffusion and not any(stage["image_batch_size"] for stage in stages):
        recipe = recipe | {"network": {"images": False} | recipe["network"]}
    return recipe | {"stages": [later | stage if "head" in stage else stage for stage in stages]}


def _without_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    return [_without_tuples(item) for item in value] if isinstance(value, list | tuple) else value


def _demo() -> Recipe:
    """Build the recipe of the demo bundles: a small causal tokenizer, minutes on one or two GPUs for each stage.

    `long` ends in the exact VQ bundle, from which both `sharp` and the VAE of `kl` begin. The last two stages fine-tune
    decoders, so that generators of the codes of `long` and of the latents of `kl` stay right.
    """
    image = Stage(
        name="image", head="vq", steps=3_000, image_batch_size=96, resolutions=(128,), base_resolution=128,
        batch_multiple=8, learning_rate=8e-4, unquantized_steps=300, losses=LossWeights(l2=20.0, l1=2.0),
    )  # fmt: skip
    joint = replace(
        image, name="joint", steps=14_000, clip_batch_size=16, resolutions=(64, 128, 256), clip_resolutions=(128,),
        unquantized_steps=0,
    )  # fmt: skip
    long = replace(joint, name="long", steps=9_300, image_batch_size=192, clip_batch_size=32, frames=33)
    sharp = replace(
        long, name="sharp", steps=10_800, image_batch_size=128, clip_batch_size=8, learning_rate=4e-4, warmup_steps=300,
        # pulls on the decoder's weights, in those of the reconstruction: perceptual 1.9, adversarial 0.7, features 0.2
        losses=LossWeights(
            l2=20.0, l1=2.0, perceptual=0.3, perceptual_network="vgg",
            image_adversarial=0.03, feature_matching=10.0, clip_frames=4,
        ),
        discriminators=Discriminators(start=1_000),
    )  # fmt: skip
    # eight channels of a patch of 192 values would bound the exactness: by principal components 16 are worth 2.3 dB
    kl = replace(
        long, name="kl", head="vae", after="long", steps=14_200, image_batch_size=96, clip_batch_size=16,
        latent_channels=16, learning_rate=6e-4, warmup_steps=200, losses=replace(long.losses, kl=1e-7),
    )  # fmt: skip
    long_decoder = replace(
        long, name="long-decoder", after="long", decoder_only=True, steps=7_000, learning_rate=4e-4, warmup_steps=200
    )
    kl_decoder = replace(kl, name="kl-decoder", after="kl", decoder_only=True, steps=20_000, learning_rate=3e-4)
    stages = (image, joint, long, sharp, kl, long_decoder, kl_decoder)
    return Recipe(CONFIGS["demo"], stages, licence="Apache-2.0")


def _demo_fine() -> Recipe:
    """Build the recipe of `demo-vq-fine`: four times as many codes for a picture as `demo`, minutes on one GPU.

    A batch holds about 70,000 tokens. Clips have 33 frames from the start, as in `long` of `demo`.
    """
    image = replace(_demo().stage("image"), steps=2_000, image_batch_size=64, learning_rate=1e-3)
    joint = replace(
        image, name="joint", steps=22_000, clip_batch_size=8, frames=33, resolutions=(64, 128, 256),
        clip_resolutions=(128,), unquantized_steps=0,
    )  # fmt: skip
    return Recipe(CONFIGS["demo-fine"], (image, joint), licence="Apache-2.0")


def _paper() -> Recipe:
    """Build the paper's recipe for ImageNet and UCF-101: section 4 where it gives a value, else common settings."""
    losses = LossWeights(
        l2=1.0, perceptual=1.0, perceptual_network="vgg",
        image_adversarial=0.1, video_adversarial=0.1, feature_matching=1.0,
    )  # fmt: skip
    image = Stage(
        name="image", head="vq", steps=500_000, image_batch_size=256, batch_multiple=8, warmup_steps=10_000,
        ema_decay=0.9999, unquantized_steps=1_000, losses=losses, discriminators=Discriminators(start=20_000),
    )  # fmt: skip
    joint = replace(
        image, name="joint", clip_batch_size=32, resolutions=MULTI_RESOLUTIONS, unquantized_steps=0,
        discriminators=replace(image.discriminators, start=0),
    )  # fmt: skip
    return Recipe(CONFIGS["paper"], (image, joint, replace(joint, name="kl", head="vae")))


def _debug() -> Recipe:
    """Build a recipe that runs every part of the trainer in seconds on a CPU."""
    losses = LossWeights(l2=20.0, l1=2.0, image_adversarial=0.02, video_adversarial=0.02, feature_matching=0.5)
    image = Stage(
        name="image", head="vq", steps=60, image_batch_size=4, resolutions=(32,), base_resolution=32,
        batch_multiple=2, frames=5, learning_rate=3e-3, warmup_steps=10, ema_decay=0.9, precision="fp32",
        losses=losses, discriminators=Discriminators(start=30, every=2, channels=32, layers=2),
        dead_code_steps=10, unquantized_steps=20,
    )  # fmt: skip
    joint = replace(image, name="joint", clip_batch_size=2, resolutions=(32, 48), unquantized_steps=0)
    return Recipe(CONFIGS["debug"], (image, joint, replace(joint, name="kl", head="vae")))


RECIPES: dict[str, Recipe] = {
    "demo": _demo(),
    "demo-fine": _demo_fine(),
    "paper-imagenet-ucf": _paper(),
    "debug": _debug(),
}
