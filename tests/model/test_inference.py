"""The compiled tokenizer gives what the modules give, for every kind of model, size and input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.inference.tokenizer import CompiledTokenizer
from model.inference.weights import stack_weights
from model.tokenizer.config import CONFIGS, TokenizerConfig, VAEConfig
from model.tokenizer.patches import PixelError
from model.tokenizer.tokenizer import CodeError, OmniTokenizer

DEBUG = CONFIGS["debug"]
KINDS = {
    "vq": DEBUG,
    "vae": replace(DEBUG, head=VAEConfig(dim=4)),
    "windows": replace(DEBUG, encoder_blocks="tw", decoder_blocks="wt"),
    "published order": replace(DEBUG, temporal_order="published"),
    "not causal": replace(DEBUG, causal_attention=False, causal_peg=False, temporal_window=None),
    "additive bias": replace(DEBUG, additive_bias=True, spatial_position="rel"),
    "without patch norm": replace(DEBUG, patch_norm=not DEBUG.patch_norm),
}


def pair(config: TokenizerConfig) -> tuple[OmniTokenizer, CompiledTokenizer]:
    """A tokenizer whose norms, scales and biases all matter, and its compiled form."""
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(config).eval().requires_grad_(False)
    for parameter in tokenizer.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return tokenizer, CompiledTokenizer(tokenizer)


def draw(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(2, 1, 32, 48), (1, 5, 24, 32), (2, 4, 19, 33)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_modules(kind, shape):
    tokenizer, compiled = pair(KINDS[kind])
    pixels = draw(*shape)
    plain, ours = tokenizer.encode_latents(pixels), compiled.encode_latents(pixels)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=2e-5)
    if tokenizer.config.is_vq:
        assert (tokenizer.encode(pixels) == compiled.encode(pixels)).float().mean() > 0.999
    codes = tokenizer.encode(pixels)
    difference = (tokenizer.decode(codes, shape[1:]).int() - compiled.decode(codes, shape[1:]).int()).abs()
    assert difference.max() <= 1


def test_queries_of_norms_without_bias_are_not_divided():
    """Their length does not matter, so that nothing is measured for it; the result is that of the modules."""
    tokenizer = OmniTokenizer(replace(DEBUG, encoder_blocks="tw")).eval().requires_grad_(False)
    for parameter in tokenizer.parameters():
        if parameter.dim() == 1 and parameter.all():  # weights and scales, not biases, which begin at zero
            parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
    stack = stack_weights(tokenizer.encoder.spatial)
    assert [block.attention.normed > 0 for block in stack.blocks] == [False, True]
    compiled, pixels = CompiledTokenizer(tokenizer), draw(2, 5, 32, 24)
    torch.testing.assert_close(compiled.encode_latents(pixels), tokenizer.encode_latents(pixels), rtol=1e-4, atol=2e-5)


def test_tokens_and_vectors_come_together():
    tokenizer, compiled = pair(DEBUG)
    pixels = draw(2, 5, 32, 24)
    for form, given in ((tokenizer, pixels), (compiled, pixels), (compiled, pixels.float() / 255 - 0.5)):
        tokens, vectors = form.encode_both(given)
        assert torch.equal(tokens, form.encode(given))
        assert torch.equal(vectors, form.encode_latents(given))
    with pytest.raises(CodeError, match="no codebook"):
        pair(KINDS["vae"])[1].encode_both(pixels)


def test_moments_and_draws_of_a_vae():
    tokenizer, compiled = pair(KINDS["vae"])
    pixels = draw(2, 1, 16, 24)
    for ours, plain in zip(compiled.encode_moments(pixels), tokenizer.encode_moments(pixels), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=2e-5)
    drawn = [form.encode(pixels, torch.Generator().manual_seed(3)) for form in (tokenizer, compiled)]
    torch.testing.assert_close(drawn[1], drawn[0], rtol=1e-4, atol=2e-5)


def test_a_batch_equals_its_items():
    _, compiled = pair(DEBUG)
    pixels = draw(3, 1, 32, 32)
    whole = compiled.encode_latents(pixels)
    alone = torch.cat([compiled.encode_latents(item[None]) for item in pixels])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


def test_the_modules_stay_as_they_were():
    tokenizer, _ = pair(DEBUG)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    compiled = CompiledTokenizer(tokenizer)
    compiled.reconstruct(draw(1, 5, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())


def test_floats_and_streams_take_the_modules_way():
    tokenizer, compiled = pair(DEBUG)
    pixels = draw(1, 5, 16, 16)
    floats = pixels.float() / 255 - 0.5
    assert torch.equal(compiled.encode(floats), tokenizer.encode(floats))
    codes, _ = compiled.encode_chunk(pixels)
    assert torch.equal(codes, tokenizer.encode_chunk(pixels)[0])
    assert compiled.decode_chunk(codes)[0].shape == (1, 5, 16, 16, 3)


def test_bad_input_is_refused_as_before():
    _, compiled = pair(DEBUG)
    with pytest.raises(PixelError, match=r"\(B, T, H, W, 3\)"):
        compiled.encode(torch.zeros(3, 16, 16, 3, dtype=torch.uint8))
    with pytest.raises(CodeError, match="must be in"):
        compiled.decode(torch.full((1, 1, 2, 2), 10**6))
    with pytest.raises(CodeError, match="takes no generator"):
        compiled.encode(draw(1, 1, 16, 16), torch.Generator())


def test_nothing_is_captured_on_a_cpu():
    _, compiled = pair(DEBUG)
    compiled.prepare([(1, 1, 16, 16)])
    compiled.capture((1, 16, 16))
    assert compiled.encode(draw(1, 1, 16, 16)).shape == (1, 1, *compiled.config.geometry.grid((1, 16, 16))[1:])
