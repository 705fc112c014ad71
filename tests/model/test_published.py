"""Conversion accounts for every key and every flag."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from model import ConversionError, convert_checkpoint, load_published
from model.checkpoint import read_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def checkpoint() -> dict:
    return read_checkpoint(GOLDEN / "vq_rope_casual.ckpt")


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
    with pytest.raises(ConversionError, match=r"2 missing keys .*head\.codebook, head\.to_code\.bias"):
        load_published(write(checkpoint, tmp_path))


def test_layers_beyond_the_flags_are_listed(tmp_path, checkpoint):
    extra = "encoder.enc_temporal_transformer.layers.7.1.q_scale"
    checkpoint["state_dict"][extra] = torch.zeros(16)
    with pytest.raises(ConversionError, match=r"flags do not describe: encoder\.temporal\.blocks\.7"):
        load_published(write(checkpoint, tmp_path))


def test_misshapen_tensors_are_refused(tmp_path, checkpoint):
    checkpoint["state_dict"]["codebook.embeddings"] = torch.zeros(12, 8)
    with pytest.raises(ConversionError, match=r"head\.codebook has shape \(12, 8\)"):
        load_published(write(checkpoint, tmp_path))


@pytest.mark.parametrize(("flag", "value"), [("patch_embed", "cnn"), ("gen_upscale", 2), ("ff_mult", 2.0)])
def test_flags_that_would_change_the_numbers_are_refused(tmp_path, checkpoint, flag, value):
    setattr(checkpoint["hyper_parameters"]["args"], flag, value)
    with pytest.raises(ConversionError, match=flag):
        load_published(write(checkpoint, tmp_path))


def test_absent_flags_take_their_old_defaults(tmp_path, checkpoint):
    args = checkpoint["hyper_parameters"]["args"]
    checkpoint["hyper_parameters"]["args"] = Namespace(
        **{k: v for k, v in vars(args).items() if k not in ("enc_block", "dec_block", "use_vae", "spatial_pos")}
    )
    # the weights are of "tw" blocks, the default is all "t": the error shows that the default was taken
    with pytest.raises(ConversionError, match="missing keys"):
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
    with pytest.raises(ConversionError, match="no published tokenizer"):
        load_published(write({"state_dict": {}}, tmp_path))
