"""The head's projection in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tiles import tiled

from kernels.autotune.table import RowTile
from kernels.projection import launch, op
from kernels.projection.reference import ProjectArgs, vq_project


def draw(rows, channels, dim, norm="both", dtype=torch.float32):
    torch.manual_seed(0)
    gain, shift = 1 + 0.1 * torch.randn(channels), torch.randn(channels)
    norms = {"both": (gain, shift), "weight": (gain, None), "none": (None, None)}[norm]
    x = (3 * torch.randn(rows, channels) + 5).to(dtype)
    return x, *norms, torch.randn(dim, channels) * channels**-0.5, torch.randn(dim)


def right(x, *rest, unit):
    return vq_project(ProjectArgs(x.double(), *(None if t is None else t.double() for t in rest), unit=unit))


@pytest.mark.parametrize("norm", ["both", "weight", "none"])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize(("rows", "channels", "dim"), [(1, 16, 1), (19, 48, 8), (33, 64, 32), (3, 600, 2)])
def test_equals_float64(rows, channels, dim, norm, unit):
    inputs = draw(rows, channels, dim, norm)
    found = op.vq_project(*inputs, unit=unit)
    torch.testing.assert_close(found.double(), right(*inputs, unit=unit), rtol=1e-5, atol=3e-6)


def test_half_precision_input_gives_float32_output():
    inputs = draw(5, 48, 8, dtype=torch.float16)
    found = op.vq_project(*inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), right(*inputs, unit=True), rtol=1e-5, atol=3e-6)


def test_a_zero_vector_stays_zero():
    x, *_, weight, _ = draw(3, 16, 4)
    assert not op.vq_project(torch.zeros_like(x), None, None, weight, torch.zeros(4)).any()


def test_tiles_leading_shapes_and_strides():
    x, *rest = draw(24, 32, 4)
    wanted = op.vq_project(x, *rest)
    assert torch.equal(op.vq_project(x.view(2, 3, 4, 32), *rest), wanted.view(2, 3, 4, 4))
    with tiled(launch, RowTile(4, 8)):
        torch.testing.assert_close(op.vq_project(x.T.contiguous().T, *rest), wanted)
    assert op.vq_project(x[:0], *rest).shape == (0, 4)


def test_operator_passes_opcheck():
    torch.library.opcheck(op.vq_project, (*draw(5, 16, 4), True))
