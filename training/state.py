"""Everything that a stage changes: networks, their averages, optimisers, the codebook's memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model.tokenizer.heads import VQHead
from model.tokenizer.tokenizer import OmniTokenizer
from training.networks.discriminators import PatchDiscriminator
from training.recipes import Stage
from training.tokenizer.codebook import CodebookKeeper


class Learner:
    """The state of a stage, all of it in tensors on one device; `state` and `restore` are its whole checkpoint.

    Args:
        tokenizer: what is trained, on its device; the head must be the stage's.
        stage: how.
        seed: of the discriminators' weights and of draws.
        discriminators: weights of an earlier stage's, by the names of `discriminators.state_dict()`; one that it had
            not begins afresh.
    """

    def __init__(
        self, tokenizer: OmniTokenizer, stage: Stage, seed: int, discriminators: dict[str, Tensor] | None = None
    ) -> None:
        self.device = next(tokenizer.parameters()).device
        self.tokenizer = tokenizer.train().requires_grad_(True)
        self.average = copy.deepcopy(tokenizer).eval().requires_grad_(False)
        self.keeper = self._keep_codebook(stage, seed)
        self.discriminators = _discriminators(stage, seed).to(self.device)
        self._take_over(discriminators or {})
        # scalars on the device: a captured step reads them, the trainer fills them
        self.step = torch.zeros((), dtype=torch.int64, device=self.device)
        self.rate = torch.zeros((), device=self.device)
        self.discriminator_rate = torch.zeros((), device=self.device)
        self.optimizer = self._adam(self.parameters(), self.rate, stage)
        self.discriminator_optimizer = (
            self._adam(list(self.discriminators.parameters()), self.discriminator_rate, stage)
            if stage.adversarial
            else None
        )

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the tokenizer's optimiser."""
        return [parameter for parameter in self.tokenizer.parameters() if parameter.requires_grad]

    def set_clock(self, step: int, rate: float, discriminator_rate: float) -> None:
        """Tell the device the number of the step and its learning rates, without waiting for it."""
        self.step.fill_(step)
        self.rate.fill_(rate)
        self.discriminator_rate.fill_(discriminator_rate)

    def state(self) -> dict[str, Any]:
        """The checkpoint of the stage's tensors."""
        optimizer = self.discriminator_optimizer
        return {
            "tokenizer": self.tokenizer.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "codebook": None if self.keeper is None else self.keeper.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "discriminator_optimizer": None if optimizer is None else optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Set everything as `state` found it."""
        self.tokenizer.load_state_dict(state["tokenizer"])
        self.average.load_state_dict(state["average"])
        self._restore_adam(self.optimizer, state["optimizer"], self.rate)
        if self.keeper is not None:
            self.keeper.load_state_dict(state["codebook"])
        self.discriminators.load_state_dict(state["discriminators"])
        if self.discriminator_optimizer is not None:
            self._restore_adam(self.discriminator_optimizer, state["discriminator_optimizer"], self.discriminator_rate)

    def not_finite(self) -> str | None:
        """Name of the first tensor that holds an infinity or no number."""
        named = list(self._named_tensors())
        # one transfer from the device, not one per tensor
        finite = torch.stack([value.isfinite().all().to(self.device) for _, value in named]).tolist()
        return next((name for (name, _), whole in zip(named, finite, strict=True) if not whole), None)

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        modules: list[tuple[str, nn.Module, torch.optim.Optimizer | None]] = [
            ("weight", self.tokenizer, self.optimizer),
            ("averaged weight", self.average, None),
            ("discriminator weight", self.discriminators, self.discriminator_optimizer),
        ]
        for kind, module, optimizer in modules:
            yield from ((f"{kind} {name}", value) for name, value in module.state_dict().items())
            for name, parameter in module.named_parameters() if optimizer is not None else ():
                moments = optimizer.state.get(parameter, {}) if optimizer is not None else {}
                yield from ((f"Adam's {moment} of {kind} {name}", value) for moment, value in moments.items())
        if self.keeper is not None:
            yield from ((f"codebook's {name}", value) for name, value in self.keeper.state_dict().items())

    def _take_over(self, weights: dict[str, Tensor]) -> None:
        for name, module in self.discriminators.items():
            mine = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
            if mine:
                module.load_state_dict(mine)

    def _keep_codebook(self, stage: Stage, seed: int) -> CodebookKeeper | None:
        head, average = self.tokenizer.head, self.average.head
        if not isinstance(head, VQHead) or not isinstance(average, VQHead):
            return None
        head.codebook.requires_grad_(stage.codebook_rule == "gradient")
        return CodebookKeeper(head.codebook, average.codebook, stage, seed)

    def _adam(self, parameters: list[nn.Parameter], rate: Tensor, stage: Stage) -> torch.optim.Adam:
        return torch.optim.Adam(
            parameters, lr=rate, betas=stage.betas, fused=True, capturable=self.device.type == "cuda"
        )

    @staticmethod
    def _restore_adam(optimizer: torch.optim.Optimizer, state: dict[str, Any], rate: Tensor) -> None:
        optimizer.load_state_dict(state)
        for group in optimizer.param_groups:
            group["lr"] = rate  # loading puts a copy in its place


def _discriminators(stage: Stage, seed: int) -> nn.ModuleDict:
    """The discriminators that a stage's weights and kinds of data call for, the same on every rank."""
    losses, settings = stage.losses, stage.discriminators
    dims: dict[str, Literal[2, 3]] = {"image": 2} if losses.image_adversarial else {}
    if losses.video_adversarial and stage.clips:
        dims["video"] = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = {name: PatchDiscriminator(dim, settings.channels, settings.layers) for name, dim in dims.items()}
    return nn.ModuleDict(built)
