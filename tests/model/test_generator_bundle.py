"""A generator's bundle loads as it was saved, with its names of classes, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.bundle import (
    BundleError,
    load_bundle,
    load_generator,
    read_config,
    rebind_generator,
    save_bundle,
    save_generator,
)
from model.generator.config import LANGUAGE_MODELS
from model.generator.lm import LanguageModel
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer

NAMES = ("crane", "Straße", "sea urchin", "crane")
TOKENIZER = "ab" * 32


def language_model(**changes: Any) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(replace(LANGUAGE_MODELS["lm-debug"], **changes)).eval()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_generator(tmp_path / "tiny", language_model(), "# Tiny\n", TOKENIZER, NAMES, licence="CC0-1.0")
    return tmp_path / "tiny"


def test_a_generator_is_rebound_to_a_tokenizer_with_the_same_codes_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(CONFIGS["debug"])
    old = save_bundle(tmp_path / "old", tokenizer, "# Old\n")
    save_generator(tmp_path / "tiny", language_model(), f"# Tiny, of codes ({old[:12]})\n", old, NAMES)
    with torch.no_grad():
        for weight in (*tokenizer.decoder.parameters(), *tokenizer.head.from_code.parameters()):
            weight += 0.01
    new = save_bundle(tmp_path / "new", tokenizer, "# New\n")
    weights = (tmp_path / "tiny/model.safetensors").read_bytes()
    for _ in range(2):  # once more changes nothing
        rebound = rebind_generator(tmp_path / "tiny", tmp_path / "old", tmp_path / "new")
        assert (load_generator(tmp_path / "tiny").tokenizer_hash, rebound) == (new, read_config(tmp_path / "tiny").hash)
    assert (tmp_path / "tiny/model.safetensors").read_bytes() == weights
    assert load_generator(tmp_path / "tiny").classes == NAMES
    assert f"({new[:12]}, with the codes of {old[:12]})" in (tmp_path / "tiny/README.md").read_text()
    with pytest.raises(BundleError, match="names the tokenizer"):
        rebind_generator(tmp_path / "tiny", tmp_path / "old", tmp_path / "old")
    with torch.no_grad():
        tokenizer.head.to_code.weight += 0.01
    save_bundle(tmp_path / "other", tokenizer, "# Other\n")
    with pytest.raises(BundleError, match=r"head\.to_code\.weight is another"):
        rebind_generator(tmp_path / "tiny", tmp_path / "new", tmp_path / "other")


def test_save_then_load_gives_the_same_bits(bundle: Path) -> None:
    loaded, model = load_generator(bundle), language_model()
    assert (loaded.name, loaded.licence, loaded.tokenizer_hash) == ("tiny", "CC0-1.0", TOKENIZER)
    assert loaded.config == model.config
    assert loaded.classes == NAMES
    assert json.loads((bundle / "classes.json").read_text(encoding="utf-8")) == list(NAMES)
    ours, theirs = model.state_dict(), loaded.generator.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert not loaded.generator.training
    assert not any(parameter.requires_grad for parameter in loaded.generator.parameters())


def test_half_precision_halves_the_file_and_rounds_once(bundle: Path) -> None:
    whole, model = (bundle / "model.safetensors").stat().st_size, language_model()
    save_generator(bundle, model, "", TOKENIZER, NAMES, dtype=torch.float16)
    assert (bundle / "model.safetensors").stat().st_size < 0.6 * whole
    assert torch.equal(load_generator(bundle).generator.head.weight, model.head.weight.half().float())


def test_an_unconditional_model_has_no_names(tmp_path: Path) -> None:
    model = language_model(
        prefix="none", classes=0, null_class=False, sampling=type(language_model().config.sampling)()
    )
    save_generator(tmp_path / "free", model, "", TOKENIZER)
    assert load_generator(tmp_path / "free").classes == ()
    assert not (tmp_path / "free" / "classes.json").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:3], "3 names for 4 classes"),
        ((), "0 names for 4 classes"),
        (("a", "b", "", "c"), "a line of 1 to 200"),
        (("a", "b", "c\nd", "e"), "a line of 1 to 200"),
        (("a", "b", 3, "e"), "a line of 1 to 200"),
        ("abcd", "a list of texts"),
    ],
)
def test_names_that_fit_no_class_are_refused(tmp_path: Path, names: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        save_generator(tmp_path / "tiny", language_model(), "", TOKENIZER, names)
    assert not (tmp_path / "tiny").exists()


def test_a_generator_replaces_only_bundles(bundle: Path, tmp_path: Path) -> None:
    save_generator(bundle, language_model(), "new card", TOKENIZER, NAMES)
    assert (bundle / "README.md").read_text() == "new card"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    with pytest.raises(BundleError, match="not replaced"):
        save_generator(tmp_path / "notes", language_model(), "", TOKENIZER, NAMES)


def test_bundles_of_the_other_kind_are_not_replaced(bundle: Path, tmp_path: Path) -> None:
    tokenizer = OmniTokenizer(CONFIGS["debug"])
    with pytest.raises(BundleError, match="is a generator, which a tokenizer does not replace"):
        save_bundle(bundle, tokenizer, "")
    save_bundle(tmp_path / "tokenizer", tokenizer, "")
    with pytest.raises(BundleError, match="is a tokenizer, which a generator does not replace"):
        save_generator(tmp_path / "tokenizer", language_model(), "", TOKENIZER, NAMES)
    assert load_generator(bundle).config == load_generator(bundle).generator.config
    assert load_bundle(tmp_path / "tokenizer").config == tokenizer.config


def test_a_tokenizer_is_not_a_generator(tmp_path: Path) -> None:
    save_bundle(tmp_path / "tokenizer", OmniTokenizer(CONFIGS["debug"]), "")
    with pytest.raises(BundleError, match="is a tokenizer; name a generator bundle"):
        load_generator(tmp_path / "tokenizer")


def test_a_generator_is_not_a_tokenizer(bundle: Path) -> None:
    with pytest.raises(BundleError, match=f"is a generator of tokenizer {TOKENIZER}; name a tokenizer bundle"):
        load_bundle(bundle)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


BREAKS = {
    "truncated weights": (lambda b: truncate(b / "model.safetensors"), "model.safetensors is damaged"),
    "no weights": (lambda b: (b / "model.safetensors").unlink(), "has no model.safetensors"),
    "renamed class": (lambda b: (b / "classes.json").write_text('["a", "b", "c", "d"]'), "classes.json is damaged"),
    "no names": (lambda b: (b / "classes.json").unlink(), "has no classes.json"),
    "edited": (lambda b: rewrite(b, tokenizer_hash="cd" * 32), "changed after it was written"),
    "unknown key": (lambda b: rewrite(b, colour="red"), "exactly the keys"),
    "no tokenizer": (lambda b: rewrite(b, tokenizer_hash=None), "names its tokenizer by 64 hex digits"),
    "names of another kind": (lambda b: rewrite(b, classes_sha256=3), "names its classes' file by 64 hex digits"),
}


def rewrite(bundle: Path, **changes: object) -> None:
    record = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps(record | changes))


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_bundles_get_one_sentence(bundle: Path, kind: str) -> None:
    damage, message = BREAKS[kind]
    damage(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        load_generator(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": 3}, "must be a mapping"),
        ({"network": {"kind": "gan"}}, "kind must be one of"),
        ({"network": LANGUAGE_MODELS["lm-debug"].to_dict() | {"depth": 1}}, "Unknown"),
        ({"network": LANGUAGE_MODELS["lm-debug"].to_dict() | {"layers": 3}}, "tensors are missing"),
        ({"network": LANGUAGE_MODELS["lm-debug"].to_dict() | {"codes": 65}}, "do not fit the config"),
        ({"network": LANGUAGE_MODELS["lm-debug"].to_dict() | {"classes": 3, "codes": 65}}, "4 names for 3 classes"),
        ({"classes_sha256": None}, "0 names for 4 classes"),
    ],
)
def test_a_config_with_a_right_hash_is_still_checked(bundle: Path, changes: dict[str, Any], message: str) -> None:
    config = replace(read_config(bundle), **changes)
    (bundle / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(BundleError, match=message):
        load_generator(bundle)
