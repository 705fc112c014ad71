"""Configs describe a tokenizer or are refused with the offending value."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from model.config_checks import ConfigError
from model.tokenizer.config import CONFIGS, TokenizerConfig, VAEConfig
from model.tokenizer.layers import alibi_slopes
from model.tokenizer.patches import PixelError
from model.tokenizer.streaming import StreamError
from model.tokenizer.tokenizer import CodeError, OmniTokenizer


@pytest.mark.parametrize("name", CONFIGS)
def test_named_configs_survive_json(name):
    config = CONFIGS[name]
    assert TokenizerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be an integer"),
        ({"width": 10**9}, "width must be an integer"),
        ({"encoder_blocks": "t" * 65}, "encoder_blocks"),
        ({"decoder_blocks": "t" * 65}, "decoder_blocks"),
        ({"temporal_layers": 0}, "temporal_layers must be an integer"),
        ({"temporal_layers": 65}, "temporal_layers must be an integer from 1 to 64"),
        ({"heads": 2.5}, "heads must be an integer"),
        ({"window": True}, "window must be an integer"),
        ({"patch_norm": "false"}, "patch_norm must be true or false"),
        ({"causal_attention": "no"}, "causal_attention must be true or false"),
        ({"encoder_blocks": "tx"}, "encoder_blocks"),
        ({"encoder_blocks": ["t", "w"]}, "encoder_blocks"),
        ({"decoder_blocks": ""}, "decoder_blocks"),
        ({"spatial_position": "sine"}, "spatial_position"),
        ({"temporal_order": "reversed"}, "temporal_order"),
        ({"head_dim": 6}, "divisible by 4"),
        ({"temporal_window": 0}, "temporal_window must be an integer"),
        ({"temporal_window": 2.5}, "temporal_window must be an integer"),
        ({"temporal_window": 2, "causal_attention": False}, "needs causal_attention"),
        ({"colour": "red"}, r"Unknown TokenizerConfig keys \['colour'\]"),
        ({"head": {"kind": "gan"}}, "head.kind"),
        ({"head": {"kind": ["vq"]}}, "head.kind"),
        ({"head": {"kind": "vq", "codes": 1}}, "codes must be an integer from 2"),
        ({"head": {"kind": "vq", "codes": 64.5}}, "codes must be an integer"),
        ({"head": {"kind": "vae", "dim": 0}}, "dim must be an integer"),
        ({"head": {"kind": "vq", "dim": 0}}, "dim must be an integer"),
        ({"head": {"kind": "vae", "codes": 7}}, r"Unknown VAEConfig keys \['codes'\]"),
        ({"head": 3}, "head must be a mapping"),
        ({"head": [["kind", "vq"]]}, "head must be a mapping"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        TokenizerConfig.from_dict(CONFIGS["debug"].to_dict() | change)


@pytest.mark.parametrize("name", ["width", "heads", "head_dim", "patch", "temporal_patch", "window"])
def test_counts_are_bounded(name):
    least = dataclasses.replace(CONFIGS["debug"], spatial_position="rel", **{name: 1})
    assert getattr(least, name) == 1
    for value in (0, 2**20 + 1):
        with pytest.raises(ConfigError, match=f"{name} must be an integer from 1"):
            dataclasses.replace(CONFIGS["debug"], **{name: value})


def test_the_deepest_config_is_taken():
    deep = dataclasses.replace(CONFIGS["debug"], temporal_layers=64, encoder_blocks="t" * 64, decoder_blocks="w" * 64)
    assert deep.temporal_layers == 64


@pytest.mark.parametrize(
    "change",
    [{"temporal_order": "published"}, {"causal_attention": False, "temporal_window": None}, {"causal_peg": False}],
)
def test_a_model_that_sees_later_frames_does_not_stream(change):
    config = dataclasses.replace(CONFIGS["debug"], **change)
    assert not config.streams
    tokenizer = OmniTokenizer(config)
    with pytest.raises(StreamError, match="whole clips only"):
        tokenizer.encode_chunk(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(StreamError, match="whole clips only"):
        tokenizer.decode_chunk(torch.zeros(1, 1, 2, 2, dtype=torch.int64))


def test_a_config_is_a_mapping():
    with pytest.raises(ConfigError, match="not int"):
        TokenizerConfig.from_dict(3)


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
        (torch.linspace(0, 1, 192).view(1, 1, 8, 8, 3), r"\[0, 1\]; uint8 leaves scaling"),
        (torch.linspace(-1, 0, 192).view(1, 1, 8, 8, 3), r"\[-1, 0\]"),
        (torch.full((1, 1, 8, 8, 3), 0.501), r"0\.501"),
        (torch.full((1, 1, 8, 8, 3), float("nan")), "nan"),
    ],
)
def test_wrong_pixels_are_refused(tokenizer, pixels, message):
    with pytest.raises(PixelError, match=message):
        tokenizer.encode(pixels)


@pytest.mark.parametrize("value", [-0.5, 0.5])
def test_the_ends_of_the_range_are_taken(tokenizer, value):
    floats = tokenizer.encode(torch.full((1, 1, 8, 8, 3), value))
    assert torch.equal(floats, tokenizer.encode(torch.full((1, 1, 8, 8, 3), int(255 * (value + 0.5))).byte()))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.full((1, 1, 2, 2), 64), r"\[0, 64\)"),
        (torch.full((1, 1, 2, 2), -1), "-1"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), "tokens"),
        (torch.zeros(1, 0, 2, 2, dtype=torch.int64), "none of them 0"),
        (torch.zeros(1, 1, 2, 2, 3), "4 channels, not 3"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.bool), "bool"),
        (torch.full((1, 1, 2, 2, 4), float("nan")), "finite"),
        (torch.full((1, 1, 2, 2, 4), float("inf")), "finite"),
    ],
)
def test_wrong_codes_are_refused(tokenizer, codes, message):
    with pytest.raises(CodeError, match=message):
        tokenizer.decode(codes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_tokens_of_any_integer_type_decode_alike(tokenizer, dtype):
    tokens = torch.arange(4).view(1, 1, 2, 2)
    assert torch.equal(tokenizer.decode(tokens.to(dtype)), tokenizer.decode(tokens))


def test_only_vectors_are_quantised(tokenizer):
    with pytest.raises(CodeError, match="Floating-point"):
        tokenizer.quantize(torch.zeros(1, 1, 2, 2, dtype=torch.int64))


def test_only_clips_are_reconstructed(tokenizer):
    with pytest.raises(PixelError, match="shape"):
        tokenizer.reconstruct(torch.zeros(8, 8, 3, dtype=torch.uint8))


def test_a_size_of_another_grid_is_refused(tokenizer):
    with pytest.raises(CodeError, match="grid"):
        tokenizer.decode(torch.zeros(1, 1, 2, 2, dtype=torch.int64), (1, 17, 16))


def test_a_vae_takes_no_tokens_and_a_vq_no_generator(tokenizer):
    vae = OmniTokenizer(dataclasses.replace(CONFIGS["debug"], head=VAEConfig(4)))
    with pytest.raises(CodeError, match="floating-point"):
        vae.decode(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(CodeError, match="generator"):
        tokenizer.encode(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8), torch.Generator())


def test_a_stream_takes_one_clip(tokenizer):
    _, state = tokenizer.encode_chunk(torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(StreamError, match="does not continue"):
        tokenizer.encode_chunk(torch.zeros(1, 2, 16, 8, 3, dtype=torch.uint8), state)
    _, state = tokenizer.encode_chunk(torch.zeros(1, 2, 8, 16, 3, dtype=torch.uint8))
    with pytest.raises(StreamError, match="does not continue"):  # the same grid, another width
        tokenizer.encode_chunk(torch.zeros(1, 2, 8, 9, 3, dtype=torch.uint8), state)
    with pytest.raises(StreamError, match=r"float32 does not continue .*uint8"):
        tokenizer.encode_chunk(torch.zeros(1, 2, 8, 16, 3), state)
    with pytest.raises(StreamError, match="another model"):
        OmniTokenizer(dataclasses.replace(CONFIGS["debug"], temporal_layers=2)).encode_chunk(
            torch.zeros(1, 2, 8, 16, 3, dtype=torch.uint8), state
        )
    _, state = tokenizer.decode_chunk(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(StreamError, match="does not continue"):
        tokenizer.decode_chunk(torch.zeros(1, 1, 2, 3, dtype=torch.int64), state)


def test_a_finished_stream_takes_no_more(tokenizer):
    _, state = tokenizer.encode_chunk(torch.zeros(1, 3, 8, 8, 3, dtype=torch.uint8), final=True)
    with pytest.raises(StreamError, match="final"):
        tokenizer.encode_chunk(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8), state)


def test_a_stream_may_end_without_further_frames(tokenizer):
    pixels = torch.randint(0, 256, (1, 3, 8, 8, 3), dtype=torch.uint8)
    first, state = tokenizer.encode_chunk(pixels)
    rest, _ = tokenizer.encode_chunk(pixels[:, :0], state, final=True)
    assert torch.equal(torch.cat((first, rest), dim=1), tokenizer.encode(pixels))
