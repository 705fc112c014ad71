"""Sampling parameters of a row, their tensors, and seeds; `kernels.sample_tokens` defines the draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import sample_tokens
from model.config_checks import check_counts
from model.generator.config import SamplingDefaults
from model.generator.limits import MAX_SEED

_MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK_64 = 2**64 - 1


@dataclass(frozen=True)
class SamplingParams(SamplingDefaults):
    """The settings that one sequence is drawn with.

    Args:
        seed: of this row.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, ("seed",), least=0, most=MAX_SEED)

    @property
    def guided(self) -> bool:
        """Return whether these settings need unconditional logits."""
        return self.guidance != 1


def row_seed(seed: int, index: int) -> int:
    """Return the seed of sample `index` of a request, in [0, 2**63)."""
    mixed = seed + (index + 1) * _MIX[0] & _MASK_64
    mixed = (mixed ^ mixed >> 30) * _MIX[1] & _MASK_64
    mixed = (mixed ^ mixed >> 27) * _MIX[2] & _MASK_64
    return (mixed ^ mixed >> 31) & MAX_SEED


class RowSampling(NamedTuple):
    """Sampling parameters as tensors of shape (N,), in the order of `kernels.sample_tokens`.

    Args:
        seeds (Tensor): int64.
        temperature, top_p, guidance, growth (Tensor): float32.
        top_k (Tensor): int32.
    """

    seeds: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    guidance: Tensor
    growth: Tensor

    @classmethod
    def of(cls, rows: Sequence[SamplingParams], device: torch.device | str = "cpu") -> RowSampling:
        """Return the parameters of these rows."""
        columns = (
            ([row.seed for row in rows], torch.int64),
            ([row.temperature for row in rows], torch.float32),
            ([row.top_k for row in rows], torch.int32),
            ([row.top_p for row in rows], torch.float32),
            ([row.guidance for row in rows], torch.float32),
            ([row.guidance_growth for row in rows], torch.float32),
        )
        return cls(*(torch.tensor(values, dtype=dtype, device=device) for values, dtype in columns))


def sample(
    conditional: Tensor, unconditional: Tensor | None, rows: RowSampling, steps: Tensor, first_id: int = 0
) -> Tensor:
    """Draw one id for each row of logits.

    Args:
        conditional (Tensor): logits, shape (N, V).
        unconditional (Tensor): logits of the rows that guide, shape (N, V), or None without guidance.
        rows: parameters of each row.
        steps (Tensor): tokens drawn before, shape (N,).
        first_id (int): ids below it are never drawn.

    Returns:
        Tensor: int64, shape (N,).
    """
    own = torch.arange(len(conditional), dtype=torch.int32, device=conditional.device)
    if unconditional is None:
        return sample_tokens(conditional, own, own, steps.int(), *rows, first_id)
    logits = torch.cat((conditional, unconditional))
    return sample_tokens(logits, own, own + len(own), steps.int(), *rows, first_id)
