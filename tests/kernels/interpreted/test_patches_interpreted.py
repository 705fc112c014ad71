"""Patchify and unpatchify in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tiles import tiled

from benchmarks.kernels.behaviour import poisoned
from kernels import patchify, unpatchify
from kernels.patches import launch, op

CUTS = [(8, 4, 1, 5), (8, 1, 0, 1), (4, 2, 1, 5), (16, 1, 0, 2), (4, 8, 0, 8)]  # patch, frames, first, length


def clip(length, patch, batch=2, down=2, across=3):
    torch.manual_seed(0)
    return torch.randint(0, 256, (batch, length, down * patch, across * patch, 3), dtype=torch.uint8)


def vectors(patch, frames, later=2, batch=2, down=2, across=3, dtype=torch.float32, spread=0.4):
    torch.manual_seed(0)
    first = spread * torch.randn(batch, 1, down, across, 3 * patch**2)
    rest = spread * torch.randn(batch, later, down, across, 3 * frames * patch**2)
    return first.to(dtype), rest.to(dtype)


@pytest.mark.parametrize(("patch", "frames", "first", "length"), CUTS)
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "normed"])
def test_patches(patch, frames, first, length, normed):
    pixels = clip(length, patch)
    with poisoned():
        found = op.patchify(pixels, patch, frames, first, torch.float32, normed)
    right = patchify.run_on("reference", pixels, patch, frames, first, torch.float64, normed).float()
    torch.testing.assert_close(found, right, rtol=2e-6, atol=2e-6 if normed else 6e-8)


@pytest.mark.parametrize("normed", [False, True], ids=["plain", "normed"])
def test_half_precision(normed):
    pixels = clip(5, 8)
    found = op.patchify(pixels, 8, 4, 1, torch.float16, normed)
    torch.testing.assert_close(
        found, patchify.run_on("reference", pixels, 8, 4, 1, torch.float16, normed), rtol=1e-3, atol=1e-6
    )


def test_every_byte_is_scaled_as_by_division():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 1, 16, 16, 3)
    found = op.patchify(pixels, 16, 1, 0, torch.float16)
    assert torch.equal(found, patchify.run_on("reference", pixels, 16, 1, 0, torch.float16))


def test_a_patch_of_one_colour_is_normed_to_zero():
    assert not op.patchify(torch.full((1, 1, 8, 8, 3), 7, dtype=torch.uint8), 8, 1, 0, torch.float32, True).any()


@pytest.mark.parametrize("cut", ["first frame", "other items", "columns", "odd place"])
def test_strided_pixels(cut):
    pixels = clip(5, 8)
    part = {
        "first frame": pixels[:, :1],
        "other items": pixels[::2],
        "columns": pixels[:, :, :, 8:],
        "odd place": torch.cat((torch.zeros(1, dtype=torch.uint8), pixels.flatten()))[1:].view(pixels.shape),
    }[cut]
    found = op.patchify(part, 8, 1, 0, torch.float16)
    assert torch.equal(found, patchify.run_on("reference", part, 8, 1, 0, torch.float16))


def test_whole_frames_are_not_copied():
    pixels = clip(5, 8)
    for part in (pixels, pixels[:, :1], pixels[:, 1:], pixels[1:]):
        assert launch._whole_frames(part) is part


@pytest.mark.parametrize(("patch", "frames"), [(8, 4), (4, 2), (16, 1), (4, 8)])
def test_bytes(patch, frames):
    first, later = vectors(patch, frames)
    assert torch.equal(
        op.unpatchify(first, later, patch, frames), unpatchify.run_on("reference", first, later, patch, frames)
    )
    assert torch.equal(
        op.unpatchify(first, None, patch, frames), unpatchify.run_on("reference", first, None, patch, frames)
    )


@pytest.mark.parametrize("biased", [(True, True), (True, False), (False, True)])
def test_biases(biased):
    first, later = vectors(8, 4)
    biases = [torch.randn(x.shape[-1]) if wanted else None for x, wanted in zip((first, later), biased, strict=True)]
    found = op.unpatchify(first, later, 8, 4, *biases)
    assert torch.equal(found, unpatchify.run_on("reference", first, later, 8, 4, *biases))
    moved = [x if bias is None else x + bias for x, bias in zip((first, later), biases, strict=True)]
    assert torch.equal(found, unpatchify.run_on("reference", *moved, 8, 4))


def test_bytes_of_half_precision_and_strided_vectors():
    first, later = (x[:, :, :, ::2] for x in vectors(8, 4, across=5, dtype=torch.float16))
    assert torch.equal(op.unpatchify(first, later, 8, 4), unpatchify.run_on("reference", first, later, 8, 4))


def test_rounding_half_to_even_and_clamping():
    values = torch.linspace(-2, 2, 192)
    values[:8] = torch.tensor([0.5, 1.5, 2.5, 253.5, 254.5, -torch.inf, torch.inf, 3e38]) / 255 - 0.5
    first = values.view(1, 1, 1, 1, 192)
    assert torch.equal(op.unpatchify(first, None, 8, 4), unpatchify.run_on("reference", first, None, 8, 4))


def test_bytes_survive_the_round_trip():
    pixels = clip(5, 8)
    first = op.patchify(pixels[:, :1], 8, 1, 0, torch.float16)
    later = op.patchify(pixels, 8, 4, 1, torch.float16)
    assert torch.equal(op.unpatchify(first, later, 8, 4), pixels)


@pytest.mark.parametrize("tile", [(64, 1), (1024, 2), (8192, 8)], ids=str)
def test_tiles(tile):
    pixels, (first, later) = clip(5, 8), vectors(8, 4)
    with tiled(launch, launch.Tile(*tile)):
        found = op.patchify(pixels, 8, 4, 1, torch.float32, True)
    torch.testing.assert_close(
        found, patchify.run_on("reference", pixels, 8, 4, 1, torch.float32, True), rtol=2e-6, atol=2e-6
    )
    with tiled(launch, launch.Tile(*tile)):
        found = op.unpatchify(first, later, 8, 4)
    assert torch.equal(found, unpatchify.run_on("reference", first, later, 8, 4))


def test_empty_inputs():
    assert op.patchify(clip(1, 8), 8, 4, 1, torch.float32).shape == (2, 0, 2, 3, 768)
    first, later = vectors(8, 4, batch=0)
    assert op.unpatchify(first, later, 8, 4).shape == (0, 9, 16, 24, 3)
    first, later = vectors(8, 4, later=0)
    assert torch.equal(op.unpatchify(first, later, 8, 4), unpatchify.run_on("reference", first, None, 8, 4))


def test_operators_pass_opcheck():
    first, later = vectors(4, 2)
    torch.library.opcheck(op.patchify, (clip(3, 4), 4, 2, 1, torch.float16, True))
    torch.library.opcheck(op.unpatchify, (first, later, 4, 2, torch.randn(48), None))
    torch.library.opcheck(op.unpatchify, (first, None, 4, 2, None, None))


def test_compiles_without_graph_breaks():
    pixels = clip(3, 4)

    def there_and_back(pixels):
        first = op.patchify(pixels[:, :1], 4, 1, 0, torch.float16)
        return op.unpatchify(first, op.patchify(pixels, 4, 2, 1, torch.float16), 4, 2)

    assert torch.equal(torch.compile(there_and_back, fullgraph=True, backend="aot_eager")(pixels), pixels)
