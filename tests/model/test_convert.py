"""Conversion accounts for every key and every flag."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_models import GOLDEN

from model.convert.generator import convert_checkpoint
from model.convert.omnitokenizer import load_published, read_flags
from model.convert.published import ConversionError
from model.convert.safe_load import read_checkpoint
from model.tokenizer.config import CONFIGS, TokenizerConfig, VQConfig


@pytest.fixture
def checkpoint() -> dict:
    checkpoint = read_checkpoint(GOLDEN / "vq_rope_casual.ckpt")
    checkpoint["hyper_parameters"]["args"] = Namespace(**vars(checkpoint["hyper_parameters"]["args"]))
    return checkpoint


def write(checkpoint: dict, tmp_path: Path) -> Path:
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


def test_every_key_is_kept_or_dropped_with_a_reason(tmp_path, checkpoint):
    report = convert_checkpoint(GOLDEN / "vq_rope_casual.ckpt", tmp_path / "bundle")
    assert len(report.kept) + len(report.dropped) == len(checkpoint["state_dict"])
    assert all(report.dropped.values())
    assert "image_discriminator" not in " ".join(report.kept)


def test_unknown_keys_are_all_listed(tmp_path, checkpoint):
    checkpoint["state_dict"]["encoder.surprise.weight"] = torch.zeros(1)
    checkpoint["state_dict"]["head.other"] = torch.zeros(1)
    with pytest.raises(ConversionError, match=r"2 unknown keys: encoder\.surprise\.weight, head\.other"):
        load_published(write(checkpoint, tmp_path))


def test_missing_keys_are_all_listed(tmp_path, checkpoint):
    del checkpoint["state_dict"]["pre_vq_conv.1.bias"], checkpoint["state_dict"]["codebook.embeddings"]
    with pytest.raises(ConversionError, match=r"2 tensors are missing: head\.codebook, head\.to_code\.bias"):
        load_published(write(checkpoint, tmp_path))


def test_layers_beyond_the_flags_are_listed(tmp_path, checkpoint):
    extra = "encoder.enc_temporal_transformer.layers.7.1.q_scale"
    checkpoint["state_dict"][extra] = torch.zeros(16)
    with pytest.raises(ConversionError, match=r"does not describe: encoder\.temporal\.blocks\.7"):
        load_published(write(checkpoint, tmp_path))


def test_misshapen_tensors_are_refused(tmp_path, checkpoint):
    checkpoint["state_dict"]["codebook.embeddings"] = torch.zeros(12, 8)
    with pytest.raises(ConversionError, match=r"head\.codebook is torch\.float32 \(12, 8\), not \(256, 8\)"):
        load_published(write(checkpoint, tmp_path))


@pytest.mark.parametrize(
    ("flag", "value"), [("patch_embed", "cnn"), ("gen_upscale", 2), ("ff_mult", 2.0), ("codebook_type", "lfq")]
)
def test_flags_that_would_change_the_numbers_are_refused(tmp_path, checkpoint, flag, value):
    setattr(checkpoint["hyper_parameters"]["args"], flag, value)
    with pytest.raises(ConversionError, match=flag):
        load_published(write(checkpoint, tmp_path))


def test_absent_flags_take_their_old_defaults():
    sizes = {"embedding_dim": 32, "heads": 2, "dim_head": 16, "patch_size": 8, "temporal_patch_size": 4}
    sizes |= {"temporal_depth": 2, "codebook_dim": 8, "n_codes": 256}
    config = read_flags(Namespace(**sizes, spatial_depth=3), additive_bias=False)
    assert (config.encoder_blocks, config.decoder_blocks) == ("ttt", "ttt")
    assert (config.window, config.spatial_position, config.is_vq) == (4, "rel", True)
    assert not config.causal_attention
    assert not config.causal_peg
    blocks = read_flags(Namespace(**sizes, enc_block="tw", dec_block="t"), additive_bias=False)
    assert (blocks.encoder_blocks, blocks.decoder_blocks) == ("tw", "t")


def test_spellings_that_disagree_are_refused(tmp_path, checkpoint):
    checkpoint["hyper_parameters"]["args"].causal_in_peg = False
    with pytest.raises(ConversionError, match="two spellings of causal_in_peg disagree"):
        load_published(write(checkpoint, tmp_path))


@pytest.mark.parametrize(
    ("flag", "value"),
    [("n_codes", "many"), ("codebook_dim", None), ("embedding_dim", 2.5), ("enc_block", ["t"]), ("heads", "2")],
)
def test_flags_of_a_wrong_type_are_refused(tmp_path, checkpoint, flag, value):
    setattr(checkpoint["hyper_parameters"]["args"], flag, value)
    with pytest.raises(ConversionError, match="describe no tokenizer"):
        load_published(write(checkpoint, tmp_path))


def test_a_size_beyond_any_memory_is_refused_unbuilt(tmp_path, checkpoint):
    checkpoint["hyper_parameters"]["args"].embedding_dim = 10**6
    with pytest.raises(ConversionError, match="do not fit the config"):
        load_published(write(checkpoint, tmp_path))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "not tensors by name"),
        (torch.zeros(256, 8, dtype=torch.int64), "is torch.int64"),
        (torch.full((256, 8), float("nan")), "infinities or NaN: head.codebook"),
    ],
)
def test_values_that_are_no_weights_are_refused(tmp_path, checkpoint, value, message):
    checkpoint["state_dict"]["codebook.embeddings"] = value
    with pytest.raises(ConversionError, match=message):
        load_published(write(checkpoint, tmp_path))


def test_a_misshapen_convolution_is_refused(tmp_path, checkpoint):
    checkpoint["state_dict"]["encoder.enc_temporal_transformer.layers.0.0.dsconv.weight"] = torch.zeros(3)
    with pytest.raises(ConversionError, match="do not fit the config"):
        load_published(write(checkpoint, tmp_path))


def test_a_missing_size_is_named(tmp_path, checkpoint):
    del checkpoint["hyper_parameters"]["args"].embedding_dim
    with pytest.raises(ConversionError, match="lack 'embedding_dim'"):
        load_published(write(checkpoint, tmp_path))


def test_misspelt_flags_mean_the_same():
    config = load_published(GOLDEN / "vq_rope_casual.ckpt")[0].config
    assert config.causal_attention
    assert config.causal_peg


def test_other_checkpoints_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="is not a published tokenizer"):
        load_published(write({"state_dict": {}}, tmp_path))


def test_the_published_config_is_that_of_released_weights():
    """Those of the golden files differ in their widths only."""
    config = load_published(GOLDEN / "vq_rope.ckpt")[0].config
    widths = {"width": 512, "heads": 8, "head_dim": 64, "head": VQConfig(codes=8192, dim=8)}
    assert replace(config, **widths) == CONFIGS["published"]
    assert replace(CONFIGS["published"], temporal_order="causal") == TokenizerConfig()
