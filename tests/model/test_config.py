"""Configs describe a tokenizer or are refused with the offending value."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from model import CONFIGS, CodeError, ConfigError, OmniTokenizer, PixelError, StreamError, TokenizerConfig, VAEConfig
from model.layers import alibi_slopes


@pytest.mark.parametrize("name", CONFIGS)
def test_named_configs_survive_json(name):
    config = CONFIGS[name]
    assert TokenizerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_named_geometries():
    assert CONFIGS["published"].temporal_order == "published"
    assert not CONFIGS["published"].streams
    assert CONFIGS["paper"].encoder_blocks == CONFIGS["paper"].decoder_blocks == "wwww"
    assert CONFIGS["demo"].streams
    with torch.device("meta"):
        parameters = sum(p.numel() for p in OmniTokenizer(CONFIGS["demo"]).parameters())
    assert 12e6 < parameters < 14e6


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"heads": 2.5},
        {"window": True},
        {"encoder_blocks": "tx"},
        {"decoder_blocks": ""},
        {"spatial_position": "sine"},
        {"temporal_order": "reversed"},
        {"head_dim": 6},
        {"temporal_window": 0},
        {"temporal_window": 2, "causal_attention": False},
        {"colour": "red"},
        {"head": {"kind": "gan"}},
        {"head": {"kind": "vq", "codes": 1}},
        {"head": {"kind": "vae", "dim": 0}},
        {"head": {"kind": "vae", "codes": 7}},
        {"head": 3},
    ],
)
def test_nonsense_is_refused(change):
    with pytest.raises(ConfigError):
        TokenizerConfig.from_dict(CONFIGS["debug"].to_dict() | change)


def test_slopes_of_linear_penalties():
    assert alibi_slopes(2) == [2**-4, 2**-8]
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]


@pytest.fixture(scope="module")
def tokenizer() -> OmniTokenizer:
    return OmniTokenizer(CONFIGS["debug"]).eval()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(1, 1, 8, 8, 3, dtype=torch.int32), "int32"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), "shape"),
        (torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8), "shape"),
        (torch.zeros(1, 0, 8, 8, 3, dtype=torch.uint8), "shape"),
        (torch.full((1, 1, 8, 8, 3), 255.0), r"\[255, 255\]"),
        (torch.full((1, 1, 8, 8, 3), -1.0), r"\[-1, -1\]"),
        (torch.full((1, 1, 8, 8, 3), float("nan")), "nan"),
    ],
)
def test_wrong_pixels_are_refused(tokenizer, pixels, message):
    with pytest.raises(PixelError, match=message):
        tokenizer.encode(pixels)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.full((1, 1, 2, 2), 64), r"\[0, 64\)"),
        (torch.full((1, 1, 2, 2), -1), "-1"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), "tokens"),
        (torch.zeros(1, 0, 2, 2, dtype=torch.int64), "none of them 0"),
        (torch.zeros(1, 1, 2, 2, 3), "4 channels, not 3"),
    ],
)
def test_wrong_codes_are_refused(tokenizer, codes, message):
    with pytest.raises(CodeError, match=message):
        tokenizer.decode(codes)


def test_a_size_of_another_grid_is_refused(tokenizer):
    with pytest.raises(CodeError, match="grid"):
        tokenizer.decode(torch.zeros(1, 1, 2, 2, dtype=torch.int64), (1, 17, 16))


def test_a_vae_takes_no_tokens_and_a_vq_no_generator(tokenizer):
    vae = OmniTokenizer(dataclasses.replace(CONFIGS["debug"], head=VAEConfig(4)))
    with pytest.raises(CodeError, match="floating-point"):
        vae.decode(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(CodeError, match="generator"):
        tokenizer.encode(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8), torch.Generator())


def test_published_order_does_not_stream():
    tokenizer = OmniTokenizer(dataclasses.replace(CONFIGS["debug"], temporal_order="published"))
    with pytest.raises(StreamError, match="published"):
        tokenizer.encode_chunk(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8))


def test_a_stream_takes_one_clip(tokenizer):
    _, state = tokenizer.encode_chunk(torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(StreamError, match="does not continue"):
        tokenizer.encode_chunk(torch.zeros(1, 2, 16, 8, 3, dtype=torch.uint8), state)
    _, state = tokenizer.decode_chunk(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(StreamError, match="does not continue"):
        tokenizer.decode_chunk(torch.zeros(1, 1, 2, 3, dtype=torch.int64), state)
