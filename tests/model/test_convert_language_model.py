"""Conversion of language models accounts for every key and flag, and for the tokenizer in the file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import GOLDEN

from model.bundle import BundleError, load_bundle, load_generator
from model.convert.generator import convert_checkpoint, read_class_names
from model.convert.omnitokenizer import load_published
from model.convert.published import ConversionError
from model.convert.safe_load import read_checkpoint
from model.generator.config import SamplingDefaults

Write = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_checkpoint(GOLDEN / "vq_rope.ckpt", tmp_path_factory.mktemp("tokenizer") / "vq").path


def plain(name: str) -> dict[str, Any]:
    checkpoint = read_checkpoint(GOLDEN / f"{name}.ckpt")
    args = Namespace(**vars(checkpoint["hyper_parameters"]["args"]))
    return {"state_dict": checkpoint["state_dict"], "hyper_parameters": {"args": args}}


def with_tokenizer(name: str = "vq_rope") -> dict[str, Any]:
    """Return a language model's checkpoint that carries a tokenizer, as released ones do."""
    checkpoint, inner = plain("lm_class"), read_checkpoint(GOLDEN / f"{name}.ckpt")
    checkpoint["state_dict"] |= {f"first_stage_model.{key}": value for key, value in inner["state_dict"].items()}
    return checkpoint


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(checkpoint: dict[str, Any]) -> Path:
        torch.save(checkpoint, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return write


def test_every_key_is_kept_or_dropped_with_a_reason(tmp_path: Path, tokenizer: Path) -> None:
    report = convert_checkpoint(GOLDEN / "lm_class.ckpt", tmp_path / "lm", tokenizer=tokenizer)
    assert report.kept.keys() | report.dropped.keys() == plain("lm_class")["state_dict"].keys()
    assert not report.kept.keys() & report.dropped.keys()
    assert set(report.kept.values()) == load_generator(tmp_path / "lm").generator.state_dict().keys()
    assert list(report.dropped) == [f"transformer.blocks.{layer}.attn.mask" for layer in range(3)]
    assert report.tokenizer is None
    assert [path.name for path in tmp_path.iterdir()] == ["lm"]


@pytest.mark.parametrize("name", ["vq_rope", "vq_rope_casual", "vq_rel_nosdpa"])
def test_a_carried_tokenizer_becomes_a_bundle(tmp_path: Path, write: Write, name: str) -> None:
    report = convert_checkpoint(write(with_tokenizer(name)), tmp_path / "lm")
    assert report.tokenizer is not None
    assert report.tokenizer.path == tmp_path / "lm-tokenizer"
    inner, published = load_bundle(tmp_path / "lm-tokenizer"), load_published(GOLDEN / f"{name}.ckpt")[0]
    assert load_generator(tmp_path / "lm").tokenizer_hash == inner.hash == report.tokenizer.hash
    assert inner.config == published.config
    theirs = inner.tokenizer.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in published.state_dict().items())
    inner_keys = {f"first_stage_model.{key}" for key in report.tokenizer.kept | report.tokenizer.dropped}
    assert inner_keys == {key for key in report.dropped if key.startswith("first_stage_model.")}


def test_the_name_of_the_carried_tokenizer_decides_its_additive_bias(tmp_path: Path, write: Write) -> None:
    checkpoint = with_tokenizer("vq_rel_nosdpa")
    checkpoint["hyper_parameters"]["args"].vqvae = "runs/imagenet_only.ckpt"
    convert_checkpoint(write(checkpoint), tmp_path / "named")
    assert load_bundle(tmp_path / "named-tokenizer").config.additive_bias
    convert_checkpoint(write(checkpoint), tmp_path / "without", additive_bias=False)
    assert not load_bundle(tmp_path / "without-tokenizer").config.additive_bias


def test_order_in_time_follows_the_flags_where_the_file_has_them(tmp_path: Path, write: Write) -> None:
    checkpoint = with_tokenizer()
    checkpoint["hyper_parameters"]["args"].casual_in_peg = False
    convert_checkpoint(write(checkpoint), tmp_path / "lm")
    config = load_bundle(tmp_path / "lm-tokenizer").config
    assert (config.causal_peg, config.causal_attention) == (False, True)


def test_a_named_bundle_must_be_the_carried_tokenizer(tmp_path: Path, write: Write, tokenizer: Path) -> None:
    report = convert_checkpoint(write(with_tokenizer()), tmp_path / "same", tokenizer=tokenizer)
    assert report.tokenizer is None
    assert not (tmp_path / "same-tokenizer").exists()
    with pytest.raises(ConversionError, match="carries another tokenizer than"):
        convert_checkpoint(write(with_tokenizer("vq_rel_nosdpa")), tmp_path / "other", tokenizer=tokenizer)


def test_a_file_without_tokenizer_needs_one(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="carries no tokenizer; name with --tokenizer"):
        convert_checkpoint(GOLDEN / "lm_class.ckpt", tmp_path / "lm")


def test_the_tokenizer_must_have_its_codes(tmp_path: Path, write: Write, tokenizer: Path) -> None:
    vae = convert_checkpoint(GOLDEN / "vae_rope.ckpt", tmp_path / "vae").path
    with pytest.raises(ConversionError, match="its tokenizer is a VAE"):
        convert_checkpoint(GOLDEN / "lm_class.ckpt", tmp_path / "lm", tokenizer=vae)
    checkpoint = plain("lm_class")
    checkpoint["hyper_parameters"]["args"].first_stage_vocab_size = 128
    with pytest.raises(ConversionError, match="speaks 128 codes, and its tokenizer has 256"):
        convert_checkpoint(write(checkpoint), tmp_path / "lm", tokenizer=tokenizer)


def test_nothing_is_written_where_the_destination_is_refused(tmp_path: Path, write: Write) -> None:
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "diary.txt").write_text("dear diary")
    with pytest.raises(BundleError, match="not replaced"):
        convert_checkpoint(write(with_tokenizer()), tmp_path / "lm")
    with pytest.raises(BundleError, match="2 names for 10 classes"):
        convert_checkpoint(write(with_tokenizer()), tmp_path / "other", classes=["a", "b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.ckpt", "lm"]


@pytest.mark.parametrize(
    ("flags", "prefix", "sampling"),
    [
        ({}, "class_sos", SamplingDefaults(top_k=2048, guidance=2.5)),
        ({"class_first": False}, "sos_class", SamplingDefaults(top_k=2048, guidance=2.5)),
    ],
)
def test_flags_give_prefix_and_sampling(
    tmp_path: Path, write: Write, tokenizer: Path, flags: dict[str, Any], prefix: str, sampling: SamplingDefaults
) -> None:
    checkpoint = plain("lm_class")
    vars(checkpoint["hyper_parameters"]["args"]).update(flags)
    config = convert_checkpoint(write(checkpoint), tmp_path / "lm", tokenizer=tokenizer).config
    assert (config.prefix, config.sampling) == (prefix, sampling)


def test_a_class_without_start_token_has_no_unconditional_stream(tmp_path: Path, write: Write, tokenizer: Path) -> None:
    checkpoint = plain("lm_class")
    state, args = checkpoint["state_dict"], checkpoint["hyper_parameters"]["args"]
    args.starts_with_sos, args.block_size = False, 64
    state["transformer.pos_emb"] = state["transformer.pos_emb"][:, :64]
    for key in ("transformer.tok_emb.weight", "transformer.head.weight"):
        state[key] = state[key][1:]
    config = convert_checkpoint(write(checkpoint), tmp_path / "lm", tokenizer=tokenizer).config
    assert (config.prefix, config.guidance, config.vocabulary) == ("class", "none", 266)
    assert config.sampling == SamplingDefaults(top_k=2048)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("vtokens", True, "Flag vtokens=True is not supported"),
        ("n_unmasked", 3, "Flag n_unmasked=3 is not supported"),
        ("unconditional", True, "not supported together"),
        ("n_unmasked", torch.zeros(2), "Flag n_unmasked holds a tensor"),
        ("n_embd", 10**6, "do not fit the config"),
        ("n_embd", "64", "width must be an integer"),
        ("n_layer", 2, "belong to layers that the config does not describe"),
        ("class_cond_dim", 11, "do not fit the config"),
        ("class_cond_dim", None, "describe no language model"),
        ("block_size", 60, "neither a square image nor a clip of 5 square latent frames"),
        ("block_size", "many", "describe no language model"),
        ("block_size", -3, "neither a square image"),
        ("block_size", 1, "grid must be three integers"),
        ("sequence_length", None, "describe no language model"),
    ],
)
def test_flags_that_fit_no_released_model_are_refused(
    tmp_path: Path, write: Write, tokenizer: Path, flag: str, value: object, message: str
) -> None:
    checkpoint = plain("lm_class")
    setattr(checkpoint["hyper_parameters"]["args"], flag, value)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(write(checkpoint), tmp_path / "lm", tokenizer=tokenizer)


@pytest.mark.parametrize("flag", ["n_layer", "block_size", "unconditional", "class_cond_dim"])
def test_missing_flags_are_named(tmp_path: Path, write: Write, tokenizer: Path, flag: str) -> None:
    checkpoint = plain("lm_class")
    delattr(checkpoint["hyper_parameters"]["args"], flag)
    with pytest.raises(ConversionError, match=f"flags lack '{flag}'"):
        convert_checkpoint(write(checkpoint), tmp_path / "lm", tokenizer=tokenizer)


QUERY = "transformer.blocks.0.attn.query.weight"
CODEBOOK = "first_stage_model.codebook.embeddings"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"transformer.surprise": torch.zeros(1), "other": torch.zeros(1)},
            "2 unknown keys: transformer.surprise, other",
        ),
        ({QUERY: None}, f"1 keys are missing: {QUERY}"),
        ({QUERY: torch.zeros(3)}, "differ in shape"),
        ({"transformer.head.weight": None}, "1 tensors are missing: head.weight"),
        ({"transformer.pos_emb": torch.zeros(3)}, "do not fit the config"),
        ({"transformer.ln_f.bias": torch.full((64,), float("nan"))}, "infinities or NaN: norm_out.bias"),
        ({"transformer.ln_f.bias": "text"}, "not tensors by name"),
        ({CODEBOOK: torch.zeros(4)}, "The tokenizer in it: It lacks the matrix 'codebook.embeddings'"),
        ({CODEBOOK: torch.zeros(0, 8)}, "It lacks the matrix 'codebook.embeddings'"),
        ({"first_stage_model.extra": torch.zeros(1)}, "The tokenizer in it: 1 unknown keys: extra"),
    ],
)
def test_tensors_that_fit_no_model_are_refused(
    tmp_path: Path, write: Write, change: dict[str, object], message: str
) -> None:
    checkpoint = with_tokenizer()
    state = checkpoint["state_dict"] | change
    checkpoint["state_dict"] = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(write(checkpoint), tmp_path / "lm")
    assert [path.name for path in tmp_path.iterdir()] == ["changed.ckpt"]


def test_a_tokenizers_file_takes_no_arguments_of_generators(tmp_path: Path, tokenizer: Path) -> None:
    for arguments in ({"tokenizer": tokenizer}, {"classes": ["a"]}):
        with pytest.raises(ConversionError, match="is not a generator"):
            convert_checkpoint(GOLDEN / "vq_rope.ckpt", tmp_path / "vq", **arguments)


def test_names_of_classes_are_a_list_or_lines(tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_text("cat\nsea urchin\n", encoding="utf-8")
    assert read_class_names(file) == ["cat", "sea urchin"]
    file.write_text('["cat", "Straße"]', encoding="utf-8")
    assert read_class_names(file) == ["cat", "Straße"]
    for text in ('{"0": "cat"}', '["cat"', "\x00[\udcff".encode("utf-8", "surrogateescape")):
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConversionError, match="names"):
            read_class_names(file)
