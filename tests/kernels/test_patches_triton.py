"""The kernels of patches without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
from absent_gpu import capability, on_gpu, refusal
from ahead import compiled_for, on_targets, spill_bytes
from tiles import tiled

from kernels import BackendUnavailableError
from kernels.patches import launch, patchify, unpatchify
from kernels.patches.reference import PatchifyArgs, UnpatchifyArgs
from model.tokenizer.config import CONFIGS
from model.tokenizer.patches import PatchEmbed, ToPixels, to_float, to_uint8


@on_targets
def test_kernels_compile_ahead(target, dtype):
    pixels = torch.zeros(1, 5, 64, 256, 3, dtype=torch.uint8)
    first, later = (torch.zeros(1, 1, 8, 32, 192 * frames, dtype=dtype) for frames in (1, 4))
    with compiled_for(target) as compiled:
        for tile in (launch.SMALL_TILE, launch.LARGE_TILE):
            with tiled(launch, tile):
                for normed in (False, True):
                    launch.patchify(PatchifyArgs(pixels, 8, 1, 0, dtype, normed))
                    launch.patchify(PatchifyArgs(pixels, 8, 4, 1, dtype, normed))
                biases = first[0, 0, 0, 0], later[0, 0, 0, 0]
                launch.unpatchify(UnpatchifyArgs(first, later, 8, 4))
                launch.unpatchify(UnpatchifyArgs(first, later, 8, 4, *biases))
    assert len({kernel.hash for kernel in compiled}) == 16
    if dtype == torch.bfloat16:
        assert {spill_bytes(kernel) for kernel in compiled} == {0}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_references_equal_the_model(name):
    config = CONFIGS[name]
    p, g = config.patch, config.temporal_patch
    pixels = torch.randint(0, 256, (2, 1 + g, 2 * p, 3 * p, 3), dtype=torch.uint8)
    embed, back = PatchEmbed(config), ToPixels(config)
    vectors = [patchify(pixels[:, :1], p, 1, 0, torch.float32), patchify(pixels, p, g, 1, torch.float32)]
    scaled = to_float(pixels, torch.float32)
    assert torch.equal(vectors[0], embed._patches(scaled[:, :1], 1))
    assert torch.equal(vectors[1], embed._patches(scaled[:, 1:], g))
    normed = torch.nn.functional.layer_norm(vectors[1], vectors[1].shape[-1:])
    assert torch.equal(patchify(pixels, p, g, 1, torch.float32, normed=True), normed)
    assert torch.equal(unpatchify(*vectors, p, g), pixels)
    noise = [3 * torch.randn_like(x) for x in vectors]
    right = torch.cat((back._unpatch(noise[0], 1), back._unpatch(noise[1], g)), dim=1)
    assert torch.equal(unpatchify(*noise, p, g), to_uint8(right))


def test_shapes_that_do_not_fit():
    pixels = torch.zeros(1, 5, 16, 24, 3, dtype=torch.uint8)
    for wrong in (pixels.float(), pixels[0], pixels[..., :2]):
        with pytest.raises(ValueError, match="must be uint8"):
            patchify(wrong, 8, 4, 1, torch.float32)
    with pytest.raises(ValueError, match="width 20 must be multiples of the patch 8"):
        patchify(pixels[:, :, :, :20], 8, 4, 1, torch.float32)
    with pytest.raises(ValueError, match="5 frames from frame 0"):
        patchify(pixels, 8, 4, 0, torch.float32)
    first, later = torch.zeros(1, 1, 2, 3, 192), torch.zeros(1, 1, 2, 3, 768)
    with pytest.raises(ValueError, match="The first frame's patches"):
        unpatchify(later, None, 8, 4)
    for other in (first, later.half(), later[:, :, :1]):
        with pytest.raises(ValueError, match="Later patches"):
            unpatchify(first, other, 8, 4)


def test_unsupported_calls():
    pixels, first = torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, 1, 1, 1, 192)
    with pytest.raises(BackendUnavailableError, match="tensors are on cpu"):
        patchify.run_on("triton", pixels, 8, 1, 0, torch.float32)
    with pytest.raises(BackendUnavailableError, match="tensors are on cpu"):
        unpatchify.run_on("triton", first, None, 8, 4)
    assert "patch=2 must be one of" in refusal(patchify, pixels, 2, 1, 0, torch.float32)
    assert "frames=3 one of" in refusal(unpatchify, first, None, 8, 3)
    assert "float64" in refusal(patchify, pixels, 8, 1, 0, torch.float64)
    with capability(9, 0):
        assert refusal(patchify, on_gpu(1, 1, 8, 8, 3, dtype=torch.uint8), 8, 1, 0, torch.float32) is None
        first = on_gpu(1, 1, 1, 1, 192).requires_grad_()
        assert "requires gradients" in refusal(unpatchify, first, None, 8, 4)
        with torch.no_grad():
            assert refusal(unpatchify, first, None, 8, 4) is None
