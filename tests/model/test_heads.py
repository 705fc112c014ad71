"""The heads decide codes in their own precision, and keep the Gaussian within bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from model.tokenizer.config import CONFIGS, VAEConfig
from model.tokenizer.heads import VAEHead, VQHead
from model.tokenizer.tokenizer import OmniTokenizer

VAE = replace(CONFIGS["debug"], head=VAEConfig(4))


def embeddings() -> torch.Tensor:
    return torch.randn(1, 5, 16, 16, CONFIGS["debug"].width, generator=torch.Generator().manual_seed(0))


def precisions() -> list[torch.autocast]:
    return [torch.autocast("cpu", torch.bfloat16, enabled=enabled) for enabled in (False, True)]


def test_codes_are_decided_in_float32_under_autocast_too() -> None:
    torch.manual_seed(0)
    head, embed = VQHead(CONFIGS["debug"]), embeddings()
    vectors = F.normalize(F.linear(embed, head.to_code.weight, head.to_code.bias), dim=-1)
    tokens = (vectors @ head.codebook.T).argmax(dim=-1)
    expanded = F.linear(vectors, head.from_code.weight, head.from_code.bias)
    for precision in precisions():
        with torch.inference_mode(), precision:
            assert torch.equal(head.project(embed), vectors)
            assert torch.equal(head.assign(head.project(embed)), tokens)
            assert torch.equal(head.expand(vectors), expanded)


def test_moments_are_in_float32_under_autocast_too() -> None:
    torch.manual_seed(0)
    head, embed = VAEHead(VAE), embeddings()
    mean, logvar = F.linear(embed, head.to_moments.weight, head.to_moments.bias).chunk(2, dim=-1)
    expanded = F.linear(mean, head.from_latent.weight, head.from_latent.bias)
    for precision in precisions():
        with torch.inference_mode(), precision:
            assert all(map(torch.equal, head(embed), (mean, logvar)))
            assert torch.equal(head.expand(mean), expanded)


@pytest.mark.parametrize(("bias", "bound"), [(1e4, 20.0), (-1e4, -30.0)])
def test_the_log_variance_is_bounded(bias: float, bound: float) -> None:
    """So that its exponential, and the divergence, stay finite."""
    tokenizer = OmniTokenizer(VAE).eval()
    assert isinstance(tokenizer.head, VAEHead)
    with torch.inference_mode():
        tokenizer.head.to_moments.bias[VAE.head.dim :] = bias
        mean, logvar = tokenizer.encode_moments(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8))
    assert logvar.unique().tolist() == [bound]
    assert mean.abs().max() < 100
