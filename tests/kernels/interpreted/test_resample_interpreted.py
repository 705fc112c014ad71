"""Resampling in Triton's interpreter: equal to the definition, bit for bit."""

from __future__ import annotations

import pytest
import torch

from benchmarks.kernels.behaviour import poisoned
from kernels.resample import op
from kernels.resample.reference import ResampleArgs, resample


def draw(along_last, lines, sources, outputs=70, taps=5, inner=3):
    """Pictures of so many lines and sources in one block of values."""
    torch.manual_seed(0)
    counts = [rows * inner * size for rows, size in zip(lines, sources, strict=True)]
    items = [torch.randint(0, 256, (count,), dtype=torch.uint8) for count in counts]
    start = torch.tensor([0, *(len(item) for item in items)]).cumsum(0)[:-1]
    int32 = {"dtype": torch.int32}
    size, own = torch.tensor(sources, **int32), torch.tensor(lines, **int32) * inner
    step = torch.full_like(size, inner) if along_last else own
    outer = size * inner if along_last else torch.full_like(size, inner)
    first = torch.randint(0, min(sources), (2, outputs), **int32)
    weights = torch.randint(-(2**19), 2**20, (2, taps, outputs), **int32)
    table = torch.tensor([index % 2 for index in range(len(lines))], **int32)
    return ResampleArgs(
        torch.cat(items), start, step, outer, own, size, table, first, weights, inner, inner * max(lines), along_last
    )


@pytest.mark.parametrize("along_last", [True, False])
@pytest.mark.parametrize("lines", [(4, 3), (1,), (50, 7, 20)], ids=str)
def test_pictures_of_many_sizes(along_last, lines):
    args = draw(along_last, lines, [5 + 3 * rows for rows in lines])
    with poisoned():
        ours = op.resample(*args)
    assert torch.equal(ours, resample(args))


def test_schema():
    torch.library.opcheck(op.resample, tuple(draw(True, (3, 2), (9, 11), 6, 3)))
