"""Clips that are encoded and decoded as their frames come equal whole ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.tokenizer.config import CONFIGS, VAEConfig
from model.tokenizer.streaming import stream_decode, stream_encode
from model.tokenizer.tokenizer import OmniTokenizer

VARIANTS = {
    "vq": CONFIGS["debug"],
    "vae": replace(CONFIGS["debug"], head=VAEConfig(dim=4)),
    "published": replace(CONFIGS["debug"], temporal_order="published", temporal_window=None),
}


@pytest.fixture(params=VARIANTS)
def tokenizer(request: pytest.FixtureRequest) -> OmniTokenizer:
    torch.manual_seed(0)
    return OmniTokenizer(VARIANTS[request.param]).eval()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (2, 11, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3), (1, 10), (3, 3, 3, 1, 1)])
def test_any_split_of_a_clip_gives_the_whole(tokenizer: OmniTokenizer, pixels: Tensor, sizes: tuple[int, ...]) -> None:
    parts = list(stream_encode(tokenizer, pixels.split(sizes, dim=1)))
    whole = tokenizer.encode(pixels)
    assert all(part.shape[1] for part in parts)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
    copy = torch.cat(list(stream_decode(tokenizer, parts)), dim=1)
    assert (copy[:, :11].int() - tokenizer.decode(whole)[:, :11].int()).abs().max() <= 1


def test_codes_come_before_the_clip_has_ended(pixels: Tensor) -> None:
    tokenizer = OmniTokenizer(VARIANTS["vq"]).eval()
    given = 0

    def frames() -> Iterator[Tensor]:
        nonlocal given
        for frame in pixels.split(1, dim=1):
            given += 1
            yield frame

    first = next(stream_encode(tokenizer, frames()))
    assert first.shape[1] == 1
    assert given == 2  # the next frame says that the first is not the last


def test_a_suspended_stream_leaves_gradients_to_its_caller(tokenizer: OmniTokenizer, pixels: Tensor) -> None:
    codes = stream_encode(tokenizer, pixels.split(4, dim=1))
    for part in stream_decode(tokenizer, codes):
        assert not torch.is_inference_mode_enabled()
        assert not part.requires_grad


def test_a_clip_without_frames_has_no_codes(pixels: Tensor) -> None:
    assert not list(stream_encode(OmniTokenizer(VARIANTS["vq"]).eval(), []))
