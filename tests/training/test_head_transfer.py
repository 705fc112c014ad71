"""From head to head: the decoder sees at first about what it saw before, also between ranks of different data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.tokenizer.config import CONFIGS, VQConfig
from model.tokenizer.heads import VAEHead, VQHead
from model.tokenizer.patches import to_float
from model.tokenizer.tokenizer import OmniTokenizer
from training.data.loaders.batch import BatchSpec
from training.data.loaders.device_loader import DeviceLoader
from training.distributed import Ranks
from training.errors import TrainingError
from training.tokenizer.head_transfer import LOGVAR, transfer_head, with_head

CONFIG = replace(CONFIGS["debug"], head=VQConfig(codes=512, dim=4))


@pytest.fixture
def pixels(loader: DeviceLoader) -> Tensor:
    return next(loader.stream([BatchSpec("clips", 32, 8, 0, 5)]))


def distance(a: Tensor, b: Tensor) -> float:
    """Return the distance of b from a in units of a's spread."""
    return float((a - b).square().mean().sqrt() / a.std())


@torch.no_grad()
def test_a_vae_begins_where_the_vq_tokenizer_ended(pixels: Tensor) -> None:
    torch.manual_seed(0)
    source = OmniTokenizer(CONFIG)
    source.head.to_code.weight *= 7  # vectors of any length are normalised away, and must not reach the decoder
    vae = transfer_head(source, with_head(CONFIG, "vae"), pixels, Ranks())
    assert isinstance(source.head, VQHead)
    assert isinstance(vae.head, VAEHead)
    embed = source.encoder(to_float(pixels, torch.float32))
    torch.testing.assert_close(vae.encoder(to_float(pixels, torch.float32)), embed)
    unit = source.head.project(embed)
    mean, logvar = vae.head(embed)
    assert float(F.cosine_similarity(mean, unit, dim=-1).min()) > 0.9999
    assert float(mean.square().mean()) == pytest.approx(1, rel=0.2)
    assert (logvar == LOGVAR).all()
    before = source.decoder(source.head.expand(unit))
    after = vae.decoder(vae.head.expand(mean))
    assert distance(before, after) < 0.2
    noisy = mean + (0.5 * logvar).exp() * torch.randn(mean.shape)
    assert distance(after, vae.decoder(vae.head.expand(noisy))) < 0.2
    # unscaled rows, the careless way, are far off
    careless = vae.decoder(source.head.expand(source.head.to_code(embed)))
    assert distance(before, careless) > 2 * distance(before, after)


@torch.no_grad()
def test_a_vae_of_more_channels_begins_as_the_narrow_one(pixels: Tensor) -> None:
    torch.manual_seed(0)
    source = OmniTokenizer(with_head(CONFIG, "vae"))
    wide = transfer_head(source, with_head(CONFIG, "vae", 7), pixels, Ranks())
    embed = source.encoder(to_float(pixels, torch.float32))
    mean, logvar = source.head(embed)
    wide_mean, wide_logvar = wide.head(embed)
    torch.testing.assert_close(wide_mean[..., :4], mean)
    torch.testing.assert_close(wide_logvar[..., :4], logvar)
    added = wide_mean[..., 4:].flatten(0, -2)
    torch.testing.assert_close(added.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(added.var(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert (wide_logvar[..., 4:] == LOGVAR).all()
    torch.testing.assert_close(wide.decoder(wide.head.expand(wide_mean)), source.decoder(source.head.expand(mean)))
    with pytest.raises(TrainingError, match="A VAE of 7 channels cannot become one of 4"):
        transfer_head(wide, source.config, pixels, Ranks())
    with pytest.raises(TrainingError, match="A head of width 7 cannot become one of 4 of another kind"):
        transfer_head(wide, CONFIG, pixels, Ranks())


@torch.no_grad()
def test_a_wide_vae_begins_where_the_vq_tokenizer_ended(pixels: Tensor) -> None:
    torch.manual_seed(0)
    source = OmniTokenizer(CONFIG)
    wide = transfer_head(source, with_head(CONFIG, "vae", 7), pixels, Ranks())
    narrow = transfer_head(source, with_head(CONFIG, "vae"), pixels, Ranks())
    embed = source.encoder(to_float(pixels, torch.float32))
    mean, _ = wide.head(embed)
    assert mean.shape[-1] == 7
    torch.testing.assert_close(mean[..., :4], narrow.head(embed)[0])
    torch.testing.assert_close(wide.decoder(wide.head.expand(mean)), narrow.decoder(narrow.head.expand(mean[..., :4])))
    with pytest.raises(TrainingError, match="A head of width 4 cannot become one of 3 of another kind"):
        transfer_head(source, with_head(CONFIG, "vae", 3), pixels, Ranks())


@torch.no_grad()
def test_a_vq_tokenizer_begins_where_the_vae_ended(pixels: Tensor) -> None:
    torch.manual_seed(0)
    source = OmniTokenizer(with_head(CONFIG, "vae"))
    source.head.to_moments.weight *= 5
    vq = transfer_head(source, CONFIG, pixels, Ranks())
    assert isinstance(source.head, VAEHead)
    assert isinstance(vq.head, VQHead)
    assert vq.config == CONFIG
    embed = source.encoder(to_float(pixels, torch.float32))
    mean, _ = source.head(embed)
    before = source.decoder(source.head.expand(mean))
    after = vq.decoder(vq.head.expand(vq.head.project(embed)))
    assert distance(before, after) < 0.3


@pytest.mark.parametrize("head", ["vq", "vae"])
def test_the_same_head_is_taken_over_as_it_is(pixels: Tensor, head: str) -> None:
    torch.manual_seed(0)
    source = OmniTokenizer(with_head(CONFIG, head)).requires_grad_(False)
    taken = transfer_head(source, source.config, pixels, Ranks())
    assert taken is not source
    assert all(parameter.requires_grad for parameter in taken.parameters())
    theirs = taken.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in source.state_dict().items())
