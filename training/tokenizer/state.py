"""Everything that a stage changes: networks, their averages, optimisers, the codebook's statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model.tokenizer.heads import VQHead
from model.tokenizer.tokenizer import OmniTokenizer, is_encoding_weight
from training.recipes import Stage
from training.step import adam, find_not_finite, moments
from training.tokenizer.codebook import CodebookUpdater
from training.tokenizer.discriminators import PatchDiscriminator


class TrainState:
    """The state of a stage in tensors on one device; `state_dict` and `load_state_dict` are its whole checkpoint.

    Args:
        tokenizer: what is trained, on its device; the head must be the stage's.
        stage: settings of the training.
        seed: of the discriminators' weights and of draws.
        discriminators: weights of an earlier stage's, by the names of `discriminators.state_dict()`; a discriminator
            without any begins afresh.
    """

    def __init__(
        self, tokenizer: OmniTokenizer, stage: Stage, seed: int, discriminators: dict[str, Tensor] | None = None
    ) -> None:
        self.device = next(tokenizer.parameters()).device
        self.tokenizer = tokenizer.train().requires_grad_(True)
        self.ema = copy.deepcopy(tokenizer).eval().requires_grad_(False)
        self.codebook_updater: CodebookUpdater | None = None
        if stage.decoder_only:
            for name, parameter in tokenizer.named_parameters():
                parameter.requires_grad_(not is_encoding_weight(name))
        elif isinstance(tokenizer.head, VQHead) and isinstance(self.ema.head, VQHead):
            tokenizer.head.codebook.requires_grad_(stage.codebook_update == "gradient")
            self.codebook_updater = CodebookUpdater(tokenizer.head.codebook, self.ema.head.codebook, stage, seed)
        self.discriminators = _build_discriminators(stage, seed).to(self.device)
        for name, module in self.discriminators.items():
            prefix = f"{name}."
            known = {key.removeprefix(prefix): w for key, w in (discriminators or {}).items() if key.startswith(prefix)}
            if known:
                module.load_state_dict(known)
        # scalars on the device: a captured step reads them, the trainer fills them
        self.step = torch.zeros((), dtype=torch.int64, device=self.device)
        self.learning_rate = torch.zeros((), device=self.device)
        self.discriminator_learning_rate = torch.zeros((), device=self.device)
        self.optimizer = adam(self.parameters(), self.learning_rate, stage.betas, self.device)
        self.discriminator_optimizer = (
            adam(list(self.discriminators.parameters()), self.discriminator_learning_rate, stage.betas, self.device)
            if stage.adversarial
            else None
        )

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the tokenizer's optimiser."""
        return [parameter for parameter in self.tokenizer.parameters() if parameter.requires_grad]

    def set_step(self, step: int, learning_rate: float, discriminator_learning_rate: float) -> None:
        """Send the number of the step and its learning rates to the device, without waiting for it."""
        self.step.fill_(step)
        self.learning_rate.fill_(learning_rate)
        self.discriminator_learning_rate.fill_(discriminator_learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return all tensors by module."""
        return {name: None if part is None else part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set everything as `state_dict` found it."""
        for name, part in self._parts().items():
            if part is not None:
                part.load_state_dict(state[name])
        rates = (self.optimizer, self.learning_rate), (self.discriminator_optimizer, self.discriminator_learning_rate)
        for optimizer, rate in rates:
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = rate  # loading puts a copy in its place

    def first_not_finite(self) -> str | None:
        """Return the name of the first tensor that holds an infinity or NaN."""
        return find_not_finite(self._named_tensors(), self.device)

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer | None]:
        return {
            "tokenizer": self.tokenizer,
            "ema": self.ema,
            "optimizer": self.optimizer,
            "codebook": self.codebook_updater,
            "discriminators": self.discriminators,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for kind, part in self._parts().items():
            if isinstance(part, nn.Module):
                yield from ((f"{kind} {name}", value) for name, value in part.state_dict().items())
        yield from moments(self.tokenizer, self.optimizer)
        if self.discriminator_optimizer is not None:
            yield from moments(self.discriminators, self.discriminator_optimizer)


def _build_discriminators(stage: Stage, seed: int) -> nn.ModuleDict:
    """Build the discriminators that a stage's weights and kinds of data call for, the same on every rank."""
    losses, settings = stage.losses, stage.discriminators
    dims: dict[str, Literal[2, 3]] = {"image": 2} if losses.image_adversarial else {}
    if losses.video_adversarial and stage.clip_batch_size:
        dims["video"] = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = {name: PatchDiscriminator(dim, settings.channels, settings.layers) for name, dim in dims.items()}
    return nn.ModuleDict(built)
