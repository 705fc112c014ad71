"""One training step of a generator: forward, loss, backward, clipping, AdamW and averaging, as pure device code."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from model.generator.config import GeneratorConfig
from model.generator.networks import Generator
from training.cuda_graphs import compile_blocks
from training.distributed import Ranks
from training.generator.token_dataset import CodeBatch
from training.gradients import GradientAverager
from training.recipes import GeneratorStage
from training.rng import LABELS, MAX_UINT32, random_ints
from training.schedule import learning_rate
from training.step import apply_gradients, autocast, find_not_finite, mean_metrics, moments, update_ema

Network = TypeVar("Network", bound=Generator)


class GeneratorStep(ABC, Generic[Network]):
    """Training of one network on batches of codes.

    Args:
        network: with fresh weights, on its device.
        stage: settings of the training.
        seed: of draws.
        ranks: the processes that train together, which share gradients.
    """

    columns: tuple[str, ...] = (
        "step", "kind", "seconds", "resolution", "loss", "grad_norm", "learning_rate", "steps_per_second",
    )  # fmt: skip
    state_keys = frozenset({"state"})

    def __init__(self, network: Network, stage: GeneratorStage, seed: int, ranks: Ranks | None = None) -> None:
        self.device = next(network.parameters()).device
        self.network: Network = network
        self.network.train().requires_grad_(True)
        self.ema: Network = copy.deepcopy(network)
        self.ema.eval().requires_grad_(False)
        self.stage, self.seed, self.ranks = stage, seed, ranks or Ranks()
        # scalars on the device: a captured step reads them
        self.number = torch.zeros((), dtype=torch.int64, device=self.device)
        self.learning_rate = torch.zeros((), device=self.device)
        self.parameters = list(network.parameters())
        self.averager = GradientAverager(self.parameters, self.ranks)
        matrices = [parameter for parameter in self.parameters if parameter.dim() > 1]
        others = [parameter for parameter in self.parameters if parameter.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.learning_rate, betas=stage.betas, fused=True, capturable=self.device.type == "cuda",
        )  # fmt: skip

    @property
    @abstractmethod
    def config(self) -> GeneratorConfig:
        """Return the network's config."""

    @abstractmethod
    def losses(self, network: Network, batch: CodeBatch, first: int) -> dict[str, Tensor]:
        """Return the metrics of a micro-batch, of which `loss` is minimised.

        Args:
            network: the trained or the averaged one.
            batch: codes, with labels that may be the null class.
            first: number of the first item over all ranks' share of the step.
        """

    def prepare(self, inputs: CodeBatch, step: int, share: float) -> None:
        """Set the number of the step and its learning rate."""
        self.number.fill_(step)
        self.learning_rate.fill_(learning_rate(self.stage, step, share))

    def __call__(self, inputs: CodeBatch, phase: None) -> dict[str, Tensor]:
        """Train on this rank's share of a batch; return its metrics, float32 scalars on the device."""
        count = self.stage.gradient_accumulation_steps
        first, metrics = self.ranks.rank * len(inputs.labels), []
        self.optimizer.zero_grad(set_to_none=True)
        chunks = zip(inputs.codes.chunk(count), inputs.labels.chunk(count), strict=True)
        for index, (codes, labels) in enumerate(chunks, 1):
            batch = CodeBatch(codes, self.drop_labels(labels, first))
            with autocast(self.device, self.stage.precision):
                parts = self.losses(self.network, batch, first)
            self.averager.backward(parts["loss"] / count, last=index == count)
            metrics.append(parts)
            first += len(labels)
        grad_norm = apply_gradients(self.parameters, self.optimizer, self.stage.max_grad_norm)
        update_ema(self.ema, self.network, self.number, self.stage.ema_decay)
        return mean_metrics(metrics) | {"grad_norm": grad_norm}

    @torch.no_grad()
    def held_out_loss(self, batch: CodeBatch, first: int) -> Tensor:
        """Return the loss of the averaged weights on a batch, with the same draws at every call.

        Args:
            batch: codes of items that are not trained on.
            first: number of the first item, from which its draws follow.
        """
        self.number.zero_()  # the next step sets it again
        with autocast(self.device, self.stage.precision):
            return self.losses(self.ema, batch, first)["loss"]

    def drop_labels(self, labels: Tensor, first: int) -> Tensor:
        """Replace a share of labels by the null class, drawn anew for each step."""
        drawn = random_ints(self.seed, LABELS, self.number, first, len(labels))
        return torch.where(drawn < int(self.stage.label_dropout * MAX_UINT32), self.config.classes, labels)

    def compile(self) -> None:
        """Compile the transformer block by block."""
        compile_blocks(self.network.blocks)

    def derived(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return nothing more than the step measured."""
        return {}

    def describe(self, row: dict[str, Any]) -> list[str]:
        """Return the loss and the norm of the gradient."""
        return [f"loss {row['loss']:.4f}", f"gradient {row['grad_norm']:.2f}"]

    def state_dict(self) -> dict[str, Any]:
        """Return the step's part of a checkpoint."""
        parts = {"network": self.network, "ema": self.ema, "optimizer": self.optimizer}
        return {"state": {name: part.state_dict() for name, part in parts.items()}}

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Set everything as a checkpoint has it."""
        state = checkpoint["state"]
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate  # loading puts a copy in its place

    def first_not_finite(self) -> str | None:
        """Return the name of the first tensor of the state that holds an infinity or NaN."""
        weights = [(f"network {name}", value) for name, value in self.network.state_dict().items()]
        weights += [(f"ema {name}", value) for name, value in self.ema.state_dict().items()]
        return find_not_finite([*weights, *moments(self.network, self.optimizer)], self.device)
