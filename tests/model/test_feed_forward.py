"""The hidden units that a GPU is given for alignment change nothing."""

import pytest
import torch
import torch.nn.functional as F

from model.tokenizer.config import CONFIGS
from model.tokenizer.layers import FeedForward


@pytest.mark.parametrize("spare", [0, 1, 43])
def test_spare_hidden_units_change_no_value_and_no_gradient(spare: int) -> None:
    layer = FeedForward(CONFIGS["debug"]).double()
    x = torch.randn(2, 3, CONFIGS["debug"].width, dtype=torch.float64)
    to_hidden, to_out = layer.weights(spare)
    assert to_hidden.shape[0] == 2 * (layer.to_out.in_features + spare) == 2 * to_out.shape[1]
    value, gate = F.linear(layer.norm(x), to_hidden).chunk(2, dim=-1)
    out = F.linear(value * F.gelu(gate), to_out)
    expected = layer(x)
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-14)
    for ours, theirs in zip(
        torch.autograd.grad(out.square().sum(), list(layer.parameters())),
        torch.autograd.grad(expected.square().sum(), list(layer.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
