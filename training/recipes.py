"""Training recipes: typed, frozen, named."""

from __future__ import annotations

from dataclasses import dataclass, replace

from model import CONFIGS, TokenizerConfig


@dataclass(frozen=True)
class Recipe:
    """How a VQ tokenizer is trained on images and clips in turn (section 3.1.2, two-stage VQ training; section 4).

    Args:
        tokenizer: the geometry.
        images, clips: items of an image step and of a clip step.
        side: pixels of a training square.
        large_every: every so many image steps are done at twice the side with a quarter of the items; 0 for never.
        learning_rate: peak, reached after `warmup` steps and brought to zero by a cosine over the run.
        warmup: steps; not a share of the time, much of which may go into compiling.
        plain: steps before quantisation sets in. Equation 1 only pulls vectors and codes together: from a random start
            they would meet in one point, so the decoder first learns to need vectors that differ.
        betas: of Adam (section 4).
        clip_norm: bound of the gradient's norm.
        l1, l2: weights of the absolute and squared reconstruction errors, pixels in [-0.5, 0.5].
        codebook, commitment: lambda 1 and lambda 2 of equation 1.
        revive_after: steps after which a code that was never chosen is set to a current vector.
        ema: decay of the averaged weights that the bundle holds.
        seed: of weights and data.
    """

    tokenizer: TokenizerConfig
    images: int
    clips: int
    side: int = 128
    large_every: int = 4
    learning_rate: float = 8e-4
    warmup: int = 500
    plain: int = 300
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    l1: float = 2.0
    l2: float = 20.0
    codebook: float = 1.0
    commitment: float = 1.0
    revive_after: int = 200
    ema: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tokenizer.is_vq:
            raise ValueError("this recipe trains a VQ tokenizer")
        if self.side % self.tokenizer.patch:
            raise ValueError(f"side {self.side} is no multiple of the patch {self.tokenizer.patch}")


_demo = Recipe(tokenizer=CONFIGS["demo"], images=96, clips=16)

RECIPES: dict[str, Recipe] = {
    "demo": _demo,
    "debug": replace(
        _demo,
        tokenizer=CONFIGS["debug"],
        images=4,
        clips=2,
        side=32,
        revive_after=10,
        ema=0.9,
        learning_rate=3e-3,
        warmup=10,
        plain=20,
    ),
}
