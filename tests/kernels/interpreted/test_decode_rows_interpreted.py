"""Both ends of a decode step in Triton's interpreter: the bits of the reference."""

from __future__ import annotations

import pytest
import torch
from decode_rows import draw

from kernels.decode_rows import launch
from kernels.decode_rows.reference import read_rows, write_rows


@pytest.mark.parametrize(("channels", "dtype"), [(40, torch.float16), (520, torch.float32)])
def test_reads_what_the_reference_reads(channels, dtype):
    args, _ = draw(channels, dtype)
    other = args._replace(counts=args.counts.clone())
    assert torch.equal(launch.read_rows(args), read_rows(other))
    assert torch.equal(args.counts, other.counts)


def test_writes_what_the_reference_writes():
    _, args = draw()
    other = args._replace(memory=args.memory.clone())
    assert torch.equal(launch.write_rows(args), write_rows(other))
    assert torch.equal(args.memory, other.memory)
