"""The interface between the loop and what it trains, and the parts that every training step has."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Step(Protocol):
    """One step of training, and all that it changes.

    Calling it runs device code alone, the same sequence of kernels for every phase and shapes of inputs, so that it can
    be captured in a CUDA graph.

    Attributes:
        device: where it runs.
        columns: of the table of metrics, `step` and `kind` first.
        state_keys: of its own part of a checkpoint.
    """

    device: torch.device
    columns: tuple[str, ...]
    state_keys: frozenset[str]

    def prepare(self, inputs: Any, step: int, share: float) -> Hashable:
        """Send what changes from step to step to the device, and return the phase of the step.

        Args:
            inputs: this rank's share of the batch, as the loader gives it.
            step: number of the step, from 1.
            share: share of the stage's length that was spent before it.
        """

    def __call__(self, inputs: Any, phase: Any) -> dict[str, Tensor]:
        """Train on this rank's share of a batch; return its metrics, `loss` among them, scalars on the device."""

    def compile(self) -> None:
        """Compile the network's blocks for a CUDA device."""

    def derived(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return columns that follow from the metrics of a row, or from what was counted since the row before."""

    def describe(self, row: dict[str, Any]) -> list[str]:
        """Return the metrics of a row for people."""

    def state_dict(self) -> dict[str, Any]:
        """Return the step's part of a checkpoint."""

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Set everything as a checkpoint has it."""

    def first_not_finite(self) -> str | None:
        """Return the name of the first tensor of the state that holds an infinity or NaN."""


def adam(
    parameters: list[nn.Parameter], rate: Tensor, betas: tuple[float, float], device: torch.device
) -> torch.optim.Adam:
    """Return Adam whose learning rate is a scalar on the device, which a captured step reads."""
    return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True, capturable=device.type == "cuda")


def apply_gradients(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Clip the norm of gradients, step; return the norm before."""
    norm = nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
    optimizer.step()
    return norm.detach()


@torch.no_grad()
def update_ema(ema: nn.Module, trained: nn.Module, step: Tensor, decay: float) -> None:
    """Move averaged weights towards the trained ones; the first weights are soon forgotten."""
    share = 1 - ((1 + step) / (10 + step)).clamp(max=decay)
    averaged: list[Tensor] = list(ema.parameters())
    difference = torch._foreach_sub(list[Tensor](trained.parameters()), averaged)
    torch._foreach_mul_(difference, share)
    torch._foreach_add_(averaged, list(difference))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a forward pass: bfloat16 where the stage asks for it, on CUDA alone."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and device.type == "cuda")


def mean_metrics(metrics: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average the metrics of micro-batches."""
    return {name: torch.stack([part[name].detach().float() for part in metrics]).mean() for name in metrics[0]}


def find_not_finite(named: Iterable[tuple[str, Tensor]], device: torch.device) -> str | None:
    """Return the name of the first tensor that holds an infinity or NaN."""
    known = list(named)
    # one transfer from the device, not one per tensor
    finite = torch.stack([value.isfinite().all().to(device) for _, value in known]).tolist()
    return next((name for (name, _), whole in zip(known, finite, strict=True) if not whole), None)


def moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, Tensor]]:
    """Yield the moments that an optimiser keeps of a module's parameters, by name."""
    for name, parameter in module.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            yield f"Adam's {moment} of {name}", value
