"""The tokenizer's laws as properties of tiny random models, with both heads."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bundle import load_bundle, save_bundle
from model.tokenizer.config import CONFIGS, TokenizerConfig, VAEConfig, VQConfig
from model.tokenizer.tokenizer import OmniTokenizer

HEADS = {"vq": VQConfig(codes=64, dim=4), "vae": VAEConfig(dim=4)}
SHAPES = {
    "windowed": CONFIGS["debug"],
    "unbounded": replace(CONFIGS["debug"], temporal_window=None, encoder_blocks="wt", decoder_blocks="tw"),
    "relative": replace(CONFIGS["debug"], spatial_position="rel", additive_bias=True, heads=3, temporal_layers=2),
}
TOLERANCE = 2e-5  # of latents of order one, in float32: sums over differently shaped buffers

heads = st.sampled_from(sorted(HEADS))
shapes = st.sampled_from(sorted(SHAPES))
seeds = st.integers(0, 2**31 - 1)
sides = st.integers(1, 45)
frames = st.integers(1, 40)


@lru_cache
def model(shape: str, head: str) -> OmniTokenizer:
    torch.manual_seed(7)
    config: TokenizerConfig = replace(SHAPES[shape], head=HEADS[head])
    tokenizer = OmniTokenizer(config).eval().requires_grad_(False)
    for parameter in tokenizer.parameters():  # norms start as identities and scales as ones: give each its own value
        parameter += 0.1 * torch.randn_like(parameter)
    return tokenizer


def clip(seed: int, frames: int, height: int, width: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, frames, height, width, 3), dtype=torch.uint8, generator=generator)


def same_codes(a: torch.Tensor, b: torch.Tensor) -> None:
    if a.is_floating_point():
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)
    else:
        assert torch.equal(a, b)


def same_pixels(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal up to the rounding of a value that lies on the edge between two levels."""
    assert a.shape == b.shape
    difference = (a.int() - b.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


@st.composite
def splits(draw: st.DrawFn, total: int) -> list[int]:
    cuts = draw(st.lists(st.integers(1, total), max_size=8, unique=True))
    edges = [0, *sorted(set(cuts) - {total}), total]
    return [after - before for before, after in itertools.pairwise(edges)]


@given(shapes, heads, seeds, frames, sides, sides, st.data())
@torch.inference_mode()
def test_law_1_the_future_changes_no_latent(shape, head, seed, count, height, width, data):
    """Changing frame j changes no latent before the one that holds j."""
    tokenizer = model(shape, head)
    changed_frame = data.draw(st.integers(0, count - 1))
    first_touched = tokenizer.config.geometry.grid((changed_frame + 1, height, width))[0] - 1
    pixels = clip(seed, count, height, width)
    changed = pixels.clone()
    changed[:, changed_frame:] = 255 - changed[:, changed_frame:]
    before, after = tokenizer.encode_latents(pixels), tokenizer.encode_latents(changed)
    torch.testing.assert_close(before[:, :first_touched], after[:, :first_touched], rtol=0, atol=TOLERANCE)
    assert not torch.allclose(before[:, first_touched:], after[:, first_touched:], atol=1e-3)


@given(shapes, heads, seeds, frames, sides, sides)
@torch.inference_mode()
def test_law_2_an_image_is_the_first_frame_of_its_clips(shape, head, seed, count, height, width):
    tokenizer = model(shape, head)
    pixels = clip(seed, count, height, width)
    same_codes(tokenizer.encode(pixels)[:, :1], tokenizer.encode(pixels[:, :1]))


@given(shapes, heads, seeds, frames, sides, sides, st.data())
@torch.inference_mode()
def test_law_3_chunks_encode_to_the_whole(shape, head, seed, count, height, width, data):
    tokenizer = model(shape, head)
    pixels = clip(seed, count, height, width)
    sizes = data.draw(splits(count))
    state, codes, start = None, [], 0
    for size in sizes:
        start += size
        part, state = tokenizer.encode_chunk(pixels[:, start - size : start], state, final=start == count)
        codes.append(part)
    same_codes(torch.cat(codes, dim=1), tokenizer.encode(pixels))


@given(shapes, heads, seeds, frames, sides, sides, st.data())
@torch.inference_mode()
def test_law_3_chunks_decode_to_the_whole(shape, head, seed, count, height, width, data):
    tokenizer = model(shape, head)
    codes = tokenizer.encode(clip(seed, count, height, width))
    state, pixels, start = None, [], 0
    for size in data.draw(splits(codes.shape[1])):
        start += size
        part, state = tokenizer.decode_chunk(codes[:, start - size : start], state)
        pixels.append(part)
    same_pixels(torch.cat(pixels, dim=1), tokenizer.decode(codes))


@settings(max_examples=4)
@given(heads, seeds)
@torch.inference_mode()
def test_law_3_a_windowed_stream_carries_constant_memory(head, seed):
    tokenizer = model("windowed", head)
    sizes = set()
    state = None
    for step in range(6):
        _, state = tokenizer.encode_chunk(clip(seed + step, 5 if step == 0 else 8, 16, 16), state)
        carried = [x for block in state.blocks for x in block if x is not None] + [state.pending]
        if step:  # the first chunk may not fill the window
            sizes.add(sum(x.untyped_storage().nbytes() for x in carried))
    assert len(sizes) == 1


@given(shapes, heads, seeds, st.integers(1, 9), sides, sides, st.integers(2, 4))
@torch.inference_mode()
def test_law_4_a_batch_is_its_items(shape, head, seed, count, height, width, batch):
    tokenizer = model(shape, head)
    pixels = clip(seed, count, height, width, batch)
    codes = tokenizer.encode(pixels)
    out = tokenizer.decode(codes)
    for item in range(batch):
        alone = tokenizer.encode(pixels[item : item + 1])
        same_codes(codes[item : item + 1], alone)
        same_pixels(out[item : item + 1], tokenizer.decode(codes[item : item + 1]))


@given(shapes, heads, seeds, frames, sides, sides)
@torch.inference_mode()
def test_law_4_an_odd_size_is_the_crop_of_its_padding(shape, head, seed, count, height, width):
    tokenizer = model(shape, head)
    pixels = clip(seed, count, height, width)
    t, h, w = tokenizer.config.geometry.grid((count, height, width))
    padded = pixels
    for axis, size in ((1, 1 + 4 * (t - 1)), (2, 8 * h), (3, 8 * w)):
        edge = padded.narrow(axis, padded.shape[axis] - 1, 1)
        padded = torch.cat([padded] + [edge] * (size - padded.shape[axis]), dim=axis)
    codes = tokenizer.encode(pixels)
    assert codes.shape[1:4] == (t, h, w)
    same_codes(codes, tokenizer.encode(padded))
    whole = tokenizer.decode(codes)
    assert whole.shape == padded.shape
    cropped = tokenizer.decode(codes, (count, height, width))
    assert torch.equal(cropped, whole[:, :count, :height, :width])
    assert tokenizer.reconstruct(pixels).shape == pixels.shape


@settings(max_examples=8)
@given(shapes, heads, seeds)
@torch.inference_mode()
def test_law_6_saving_and_loading_keeps_every_bit(shape, head, seed):
    tokenizer = model(shape, head)
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(f"{folder}/bundle", tokenizer, "")
        loaded = load_bundle(f"{folder}/bundle").tokenizer
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    pixels = clip(seed, 5, 16, 16)
    same_codes(tokenizer.encode(pixels), loaded.encode(pixels))


@pytest.mark.parametrize("head", HEADS)
def test_evaluation_changes_nothing(head):
    tokenizer = model("windowed", head)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    with torch.inference_mode():
        tokenizer.reconstruct(clip(0, 9, 16, 16))
        tokenizer.encode_chunk(clip(0, 9, 16, 16))
    assert all(torch.equal(before[name], value) for name, value in tokenizer.state_dict().items())


@torch.inference_mode()
def test_vae_samples_follow_their_generator():
    tokenizer = model("windowed", "vae")
    pixels = clip(3, 5, 16, 16)
    first, again, other = (tokenizer.encode(pixels, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    mean, logvar = tokenizer.encode_moments(pixels)
    assert torch.equal(tokenizer.encode(pixels), mean)
    draws = torch.stack([tokenizer.encode(pixels, torch.Generator().manual_seed(s)) for s in range(400)])
    deviation = (0.5 * logvar).exp()
    assert ((draws.mean(0) - mean).abs() / deviation).max() < 6 / 400**0.5
    assert (draws.std(0) / deviation - 1).abs().mean() < 0.1
