"""The settings that stages of every kind of network have: how long, how many items, which optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.errors import TrainingError

NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True, kw_only=True)
class BaseStage:
    """One stage of a training, as far as it does not depend on the network.

    Args:
        name: of the stage and of its folder.
        steps: length; a run may be given another.
        image_batch_size, clip_batch_size: items of an image step and of a clip step, over all ranks and micro-batches;
            0 for none. With both, steps alternate, images first (section 4: "iteratively").
        frames: of a clip.
        learning_rate: peak, brought to zero by a cosine over the stage (section 4).
        warmup_steps: linear warm-up; never a share of the time, much of which may go into compiling.
        betas: of Adam.
        ema_decay: of the averaged weights, which are what a bundle holds.
        max_grad_norm: bound of the gradient's norm.
        gradient_accumulation_steps: micro-batches into which a rank splits its share of a batch.
        precision: "bf16" runs networks under autocast on CUDA; a CPU computes in float32 always.

    Raises:
        TrainingError: a value is out of its range.
    """

    name: str
    steps: int
    image_batch_size: int = 0
    clip_batch_size: int = 0
    frames: int = 17
    learning_rate: float
    warmup_steps: int = 500
    betas: tuple[float, float]
    ema_decay: float
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    precision: Literal["fp32", "bf16"] = "bf16"

    def __post_init__(self) -> None:
        if not self.name or set(self.name) - NAME_CHARACTERS:
            raise TrainingError(f"A stage is named by small letters, digits, '-' and '_', not {self.name!r}.")
        self._check_least(1, ("steps", "frames", "warmup_steps", "gradient_accumulation_steps"))
        self._check_least(0, ("image_batch_size", "clip_batch_size"))
        if self.image_batch_size + self.clip_batch_size == 0:
            raise TrainingError(f"Stage {self.name} trains on no images and no clips: give it a batch size.")
        self._check_choice("precision", ("fp32", "bf16"))
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:  # NaN compares false
                raise TrainingError(f"Stage {self.name}: {name} must be above 0, not {getattr(self, name)}.")
        self._check_shares({"betas": self.betas, "ema_decay": (self.ema_decay,)})

    @property
    def alternates(self) -> bool:
        """Return whether steps on images and on clips alternate."""
        return self.image_batch_size > 0 and self.clip_batch_size > 0

    def _check_least(self, least: int, names: Sequence[str]) -> None:
        for name in names:
            if not getattr(self, name) >= least:
                raise TrainingError(f"Stage {self.name}: {name} must be at least {least}, not {getattr(self, name)}.")

    def _check_choice(self, name: str, known: Sequence[str]) -> None:
        if getattr(self, name) not in known:
            raise TrainingError(f"Stage {self.name}: {name} is {' or '.join(known)}, not {getattr(self, name)!r}.")

    def _check_shares(self, values: dict[str, Sequence[float]]) -> None:
        for name, shares in values.items():
            for share in shares:
                if not 0 <= share < 1:
                    raise TrainingError(f"Stage {self.name}: {name} must be in [0, 1), not {share}.")
