"""Published checkpoints give the published numbers, straight from the file and through a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_models import GOLDEN, published_numbers

from kernels import use_backend
from model.bundle import load_bundle
from model.convert.generator import convert_checkpoint
from model.convert.omnitokenizer import load_published
from model.inference.tokenizer import CompiledTokenizer
from model.tokenizer.patches import to_float, to_uint8
from model.tokenizer.tokenizer import OmniTokenizer

CHECKPOINTS = ("vq_rope", "vq_rope_casual", "vq_rel_nosdpa", "vae_rope")
LATENT_BOUND, RECONSTRUCTION_BOUND, MARGIN = 1e-5, 1e-4, 1e-5


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """(B, C, T, H, W) or (B, C, H, W) to (B, T, H, W, C)."""
    return (x if x.dim() == 5 else x.unsqueeze(2)).permute(0, 2, 3, 4, 1)


@pytest.fixture(params=["file", "bundle"])
def route(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=CHECKPOINTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tokenizer(name: str, route: str, tmp_path: Path) -> OmniTokenizer:
    source, additive = GOLDEN / f"{name}.ckpt", name == "vq_rel_nosdpa"
    if route == "file":
        return load_published(source, additive)[0]
    report = convert_checkpoint(source, tmp_path / name, additive)
    bundle = load_bundle(tmp_path / name)
    assert bundle.hash == report.hash
    return bundle.tokenizer


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kind", ["image", "video"])
@torch.inference_mode()
def test_published_numbers(name, route, kind, backend, tokenizer, table):
    expected = published_numbers(name, "cpu")
    pixels = expected[f"{kind}_u8"].reshape(1, -1, *expected[f"{kind}_u8"].shape[-3:])
    with use_backend(backend):
        if tokenizer.config.is_vq:
            latent_error = (tokenizer.encode_latents(pixels) - channels_last(expected[f"{kind}_latent"])).abs().max()
            tokens, wanted = tokenizer.encode(pixels), expected[f"{kind}_tokens"].long()
            clear = expected[f"{kind}_margin"].view_as(wanted) > MARGIN
            wrong = int((tokens != wanted)[clear].sum())
            counted = f"{int(clear.sum())}/{wanted.numel()} clear tokens, {wrong} wrong"
            codes, reconstruction = tokenizer.head.lookup(wanted), expected[f"{kind}_recon"]
        else:
            embed = tokenizer.encoder(to_float(pixels, torch.float32))
            moments = torch.cat(tokenizer.head(embed), dim=-1)
            latent_error = (moments - channels_last(expected[f"{kind}_moments"])).abs().max()
            wrong, counted = 0, "moments"
            codes, reconstruction = tokenizer.encode(pixels), expected[f"{kind}_recon_from_mean"]
        pixels_out = tokenizer.decoder(tokenizer.head.expand(codes))
    pixel_error = (pixels_out - channels_last(reconstruction)).abs().max()
    table(
        "published checkpoints: greatest differences",
        f"{name:16} {route:7} {kind:6} {backend:10} latent {latent_error:.1e}  pixels {pixel_error:.1e}  {counted}",
    )
    assert latent_error <= LATENT_BOUND
    assert pixel_error <= RECONSTRUCTION_BOUND
    assert wrong == 0


@pytest.mark.parametrize("kind", ["image", "video"])
@torch.inference_mode()
def test_published_numbers_compiled(name, kind, device, table):
    """Return the tokenizer that a GPU serves: prepared weights, float32 kernels and a captured graph where possible."""
    tokenizer = load_published(GOLDEN / f"{name}.ckpt", name == "vq_rel_nosdpa")[0].to(device)
    compiled = CompiledTokenizer(tokenizer)
    expected = published_numbers(name, device)
    pixels = expected[f"{kind}_u8"].reshape(1, -1, *expected[f"{kind}_u8"].shape[-3:])
    compiled.capture(tuple(pixels.shape[1:4]), (1,))
    if tokenizer.config.is_vq:
        latent_error = (compiled.encode_latents(pixels) - channels_last(expected[f"{kind}_latent"])).abs().max()
        tokens, wanted = compiled.encode(pixels), expected[f"{kind}_tokens"].long()
        wrong = int((tokens != wanted)[expected[f"{kind}_margin"].view_as(wanted) > MARGIN].sum())
        out, reconstruction = compiled.decode(wanted), expected[f"{kind}_recon"]
    else:
        moments = torch.cat(compiled.encode_moments(pixels), dim=-1)
        latent_error = (moments - channels_last(expected[f"{kind}_moments"])).abs().max()
        wrong, out, reconstruction = 0, compiled.decode(compiled.encode(pixels)), expected[f"{kind}_recon_from_mean"]
    levels = (out.int() - to_uint8(channels_last(reconstruction)).int()).abs().max()
    table(
        "published checkpoints: greatest differences",
        f"{name:16} {device:7} {kind:6} compiled   latent {latent_error:.1e}  pixels {levels} of 255  {wrong} wrong",
    )
    assert latent_error <= LATENT_BOUND
    assert levels <= 1  # a value at the edge between two levels may fall to either side
    assert wrong == 0


def test_file_name_decides_the_additive_bias(tmp_path):
    file = tmp_path / "imagenet_only.ckpt"
    file.write_bytes((GOLDEN / "vq_rel_nosdpa.ckpt").read_bytes())
    assert load_published(file)[0].config.additive_bias
    assert not load_published(GOLDEN / "vq_rel_nosdpa.ckpt")[0].config.additive_bias
