"""The VAE with the interface of diffusers' `AutoencoderKL`: the tokenizer's latents and pixels in another layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.autoencoder import AutoencoderKLOmniTokenizer
from model.bundle import BundleError, save_bundle
from model.tokenizer.config import CONFIGS, VAEConfig
from model.tokenizer.patches import PixelError
from model.tokenizer.tokenizer import CodeError, OmniTokenizer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bundles") / "vae"
    save_bundle(folder, OmniTokenizer(replace(CONFIGS["debug"], head=VAEConfig(dim=4))).eval(), "Random weights.")
    return folder


@pytest.fixture(scope="module")
def vae(bundle: Path) -> AutoencoderKLOmniTokenizer:
    return AutoencoderKLOmniTokenizer.from_pretrained(bundle)


def drawn(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def signed(pixels: Tensor) -> Tensor:
    """Return uint8 (B, T, H, W, 3) as floats (B, 3, T, H, W) in [-1, 1]."""
    return pixels.movedim(-1, 1) / 127.5 - 1


def shown(sample: Tensor) -> Tensor:
    """Return floats (B, 3, T, H, W) as uint8 (B, T, H, W, 3), as diffusers' processors do."""
    return ((sample / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)


@pytest.mark.parametrize("frames", [1, 9])
def test_latents_and_pixels_are_those_of_the_tokenizer(vae: AutoencoderKLOmniTokenizer, frames: int) -> None:
    pixels = drawn(2, frames, 16, 24, 3)
    with torch.inference_mode():
        latents = vae.encode(signed(pixels)).latent_dist.mode()
        expected = vae.tokenizer.encode(pixels)
        assert latents.shape == (2, vae.config.latent_channels, *expected.shape[1:4])
        torch.testing.assert_close(latents.movedim(1, -1), expected)
        scaled = latents * vae.config.scaling_factor
        sample = vae.decode(scaled / vae.config.scaling_factor).sample
        assert torch.equal(shown(sample), vae.tokenizer.decode(latents.movedim(1, -1)))
        assert torch.equal(vae(signed(pixels)).sample, sample)


def test_images_have_no_axis_of_frames_and_outcomes_may_be_tuples(vae: AutoencoderKLOmniTokenizer) -> None:
    images = signed(drawn(2, 1, 13, 24, 3))[:, :, 0]
    [posterior] = vae.encode(images, return_dict=False)
    assert posterior.mean.shape == (2, 4, 2, 3)
    [sample] = vae.decode(posterior.mode(), return_dict=False)
    assert sample.shape == (2, 3, 16, 24)
    assert torch.equal(sample, vae.decode(posterior.mode().unsqueeze(2)).sample.squeeze(2))


def test_the_distribution_draws_by_a_generator_and_knows_its_divergence(vae: AutoencoderKLOmniTokenizer) -> None:
    posterior = vae.encode(signed(drawn(2, 1, 16, 16, 3))).latent_dist
    first, again, other = (posterior.sample(torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(posterior.kl(), expected)


def test_gradients_reach_pixels_and_latents(vae: AutoencoderKLOmniTokenizer) -> None:
    images = signed(drawn(1, 1, 16, 16, 3)).requires_grad_()
    vae(images).sample.square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_precision_and_device_are_chosen_as_in_diffusers(bundle: Path) -> None:
    half = AutoencoderKLOmniTokenizer.from_pretrained(bundle, torch_dtype=torch.bfloat16)
    assert (half.dtype, half.device) == (torch.bfloat16, torch.device("cpu"))
    images = signed(drawn(1, 1, 16, 16, 3))[:, :, 0].to(half.dtype)
    rough = half(images).sample
    whole = half.to(torch.float32)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(rough.float(), whole(images.float()).sample, atol=0.1, rtol=0.1)
    assert half.to("meta").device.type == "meta"


def test_what_it_cannot_take_is_refused(vae: AutoencoderKLOmniTokenizer, tmp_path: Path) -> None:
    save_bundle(tmp_path / "vq", OmniTokenizer(CONFIGS["debug"]), "Random weights.")
    with pytest.raises(BundleError, match="name a VAE bundle"):
        AutoencoderKLOmniTokenizer.from_pretrained(tmp_path / "vq")
    with pytest.raises(PixelError, match=r"in \[-1, 1\]"):
        vae.encode(torch.full((1, 3, 16, 16), 1.5))
    with pytest.raises(CodeError, match="channels"):
        vae.decode(torch.zeros(1, 3, 2, 2))
