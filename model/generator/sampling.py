"""Sampling parameters of a row, their tensors, and seeds; `kernels.sample_tokens` defines the draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import sample_tokens
from model.generator.config import MAX_GUIDANCE, MAX_TEMPERATURE, MIN_TEMPERATURE

MAX_SEED = 2**63 - 1
MAX_TOP_K = 2**31 - 1
_MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK_64 = 2**64 - 1


class SamplingError(ValueError):
    """A sampling parameter outside its range."""


@dataclass(frozen=True)
class SamplingParams:
    """The parameters that one sequence is drawn with.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the k likeliest ids and all that equal the last; 0 keeps all.
        top_p: keep the likeliest ids up to the first that brings their mass above p; 1 keeps all.
        guidance: s in uncond + s (cond - uncond); 1 is none.
        guidance_growth: s - 1 grows by this share of itself at each step. With 1 it is proportional to the number of
            the token, as the published sampler's option has it.
        seed: of this row.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    guidance_growth: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature != 0:
            _check("temperature", self.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE, " or 0 for the likeliest token")
        _check("top_k", self.top_k, 0, MAX_TOP_K)
        _check("top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise SamplingError("top_p=0 must be above 0; use temperature=0 for the likeliest token.")
        _check("guidance", self.guidance, 0, MAX_GUIDANCE)
        _check("guidance_growth", self.guidance_growth, 0, MAX_GUIDANCE)
        _check("seed", self.seed, 0, MAX_SEED)

    @property
    def guided(self) -> bool:
        """Return whether these parameters need unconditional logits."""
        return self.guidance != 1


def _check(name: str, value: float, least: float, most: float, otherwise: str = "") -> None:
    whole = name in ("top_k", "seed")
    kinds = (int,) if whole else (int, float)
    if type(value) not in kinds or not math.isfinite(value) or not least <= value <= most:
        kind = "an integer" if whole else "a number"
        raise SamplingError(f"{name}={value!r} must be {kind} from {least} to {most}{otherwise}.")


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
