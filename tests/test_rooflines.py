"""Rooflines of the tokenizer: figures counted by hand, and what must hold for any geometry."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.measure import Ceilings
from benchmarks.rooflines import SHAPES, Shape, roofline
from model.tokenizer.config import CONFIGS, VAEConfig, VQConfig

H100 = Ceilings(copy=3.0e12, product=798e12)
PUBLISHED = CONFIGS["published"]
KINDS = {
    **CONFIGS,
    "vae": replace(PUBLISHED, head=VAEConfig()),
    "rel": replace(PUBLISHED, spatial_position="rel", additive_bias=True),
    "sees later frames": replace(PUBLISHED, causal_attention=False),
}


@pytest.mark.parametrize(
    ("shape", "encode", "decode"),
    [
        ((1, 1, 256), 77, 81),
        ((16, 1, 256), 1165, 1229),
        ((64, 1, 256), 4655, 4910),
        ((1, 17, 256), 442, 462),
        ((8, 17, 128), 860, 870),
        ((8, 17, 256), 3530, 3690),
    ],
)
def test_published_geometry_on_an_h100(shape: Shape, encode: float, decode: float) -> None:
    found = roofline(PUBLISHED, shape, H100)
    assert found.encode == pytest.approx(encode, rel=0.03)
    assert found.decode == pytest.approx(decode, rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 1, 256), (64, 17, 128)])
def test_twice_the_batch_takes_twice_as_long_once_weights_are_negligible(kind: str, shape: Shape) -> None:
    batch, frames, side = shape
    once, twice = (roofline(KINDS[kind], (many * batch, frames, side), H100) for many in (16, 32))
    assert twice.encode == pytest.approx(2 * once.encode, rel=0.01)
    assert twice.decode == pytest.approx(2 * once.decode, rel=0.01)
    assert twice.encode <= 2 * once.encode  # weights are read once a call
    assert twice.decode <= 2 * once.decode


@pytest.mark.parametrize("kind", KINDS)
def test_faster_ceilings_never_take_longer(kind: str) -> None:
    for shape in SHAPES:
        slow = roofline(KINDS[kind], shape, H100)
        for faster in (replace(H100, copy=4.26e12), replace(H100, product=2e15)):
            fast = roofline(KINDS[kind], shape, faster)
            assert fast.encode <= slow.encode
            assert fast.decode <= slow.decode
        both = roofline(KINDS[kind], shape, Ceilings(2 * H100.copy, 2 * H100.product))
        assert both.encode == pytest.approx(slow.encode / 2)
        assert both.decode == pytest.approx(slow.decode / 2)


def test_only_encoding_searches_codes() -> None:
    few, many = (
        roofline(replace(PUBLISHED, head=VQConfig(codes=codes)), (1, 1, 256), H100) for codes in (2**13, 2**17)
    )
    assert many.encode > few.encode
    assert many.decode == few.decode


def test_one_frame_costs_less_than_attention_over_it() -> None:
    """An image's temporal layers are one product each."""
    image = roofline(PUBLISHED, (16, 1, 256), H100)
    clip = roofline(PUBLISHED, (16, 5, 256), H100)
    assert clip.encode > 2 * image.encode
    assert clip.decode > 2 * image.decode
