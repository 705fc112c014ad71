"""Sampling in Triton's interpreter: the ids of the reference."""

from __future__ import annotations

import pytest
import torch

from kernels.sample_tokens import launch
from kernels.sample_tokens.reference import SampleArgs, sample_tokens


def draw(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32, levels: int = 0) -> SampleArgs:
    """Draw logits in pairs, and parameters of every kind; `levels` makes many of them equal."""
    generator = torch.Generator().manual_seed(rows * vocabulary)
    logits = 3 * torch.randn(2 * rows, vocabulary, generator=generator)
    if levels:
        logits = (logits * levels).round() / levels
    row = torch.arange(rows)
    return SampleArgs(
        logits.to(dtype),
        (2 * row).int(),
        torch.where(row % 3 > 0, 2 * row + 1, 2 * row).int(),
        (row * 37).int(),
        torch.randint(2**63 - 1, (rows,), generator=generator),
        torch.tensor([1.0, 0.7, 0.0, 1.3, 0.1])[row % 5],
        torch.tensor([0, 1, 5, vocabulary // 2, 2 * vocabulary])[(row + row // 5) % 5].int(),
        torch.tensor([1.0, 0.9, 0.5, 1e-6])[row % 4],
        torch.tensor([1.0, 2.5, 4.0, 0.0])[row % 4],
        torch.tensor([0.0, 0.0, 0.01])[row % 3],
        min(3, vocabulary - 1),
    )


@pytest.mark.parametrize(
    ("rows", "vocabulary", "dtype", "levels"),
    [(12, 37, torch.float32, 1), (6, 1500, torch.float16, 0), (5, 5001, torch.float32, 4), (1, 1, torch.float32, 0)],
)
def test_draws_the_ids_of_the_reference(rows, vocabulary, dtype, levels):
    args = draw(rows, vocabulary, dtype, levels)
    for step in range(4):
        args = args._replace(steps=args.steps + step)
        assert torch.equal(launch.sample_tokens(args), sample_tokens(args))


def test_zeros_of_both_signs_are_ties():
    logits = torch.tensor([[-1.0, -0.0, 0.0, -0.0]]).expand(32, 4).contiguous()
    args = draw(32, 4)._replace(
        logits=logits,
        conditional=torch.arange(32).int(),
        unconditional=torch.arange(32).int(),
        temperature=torch.ones(32),
        top_k=torch.ones(32).int(),
        top_p=torch.ones(32),
        first_id=0,
    )
    found = launch.sample_tokens(args)
    assert torch.equal(found, sample_tokens(args))
    assert set(found.tolist()) == {1, 2, 3}
