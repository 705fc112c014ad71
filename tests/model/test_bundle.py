"""A bundle loads as it was saved, or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.bundle import BundleConfig, BundleError, load_bundle, read_config, save_bundle
from model.bundle_files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from model.tokenizer.config import CONFIGS, VAEConfig
from model.tokenizer.tokenizer import OmniTokenizer


@pytest.fixture(params=["vq", "vae"])
def tokenizer(request) -> OmniTokenizer:
    torch.manual_seed(1)
    config = CONFIGS["debug"]
    return OmniTokenizer(config if request.param == "vq" else replace(config, head=VAEConfig(4))).eval()


@pytest.fixture
def bundle(tokenizer, tmp_path) -> Path:
    save_bundle(tmp_path / "tiny", tokenizer, "# Tiny\n", licence="CC0-1.0")
    return tmp_path / "tiny"


def test_save_then_load_gives_the_same_bits(tokenizer, bundle):
    loaded = load_bundle(bundle)
    assert loaded.name == "tiny"
    assert loaded.licence == "CC0-1.0"
    assert loaded.config == tokenizer.config
    ours, theirs = tokenizer.state_dict(), loaded.tokenizer.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    pixels = torch.randint(0, 256, (1, 5, 16, 24, 3), dtype=torch.uint8)
    with torch.inference_mode():
        # the last bit of a matrix product may follow the alignment of its buffers
        torch.testing.assert_close(tokenizer.encode(pixels), loaded.tokenizer.encode(pixels), rtol=0, atol=1e-6)


def test_the_hash_follows_the_content(tokenizer, bundle, tmp_path):
    first = load_bundle(bundle).hash
    assert save_bundle(tmp_path / "copy", tokenizer, "another card", licence="CC0-1.0") == first
    with torch.no_grad():
        tokenizer.encoder.spatial.norm_out.bias[0] += 1e-3
    assert save_bundle(tmp_path / "other", tokenizer, "# Tiny\n", licence="CC0-1.0") != first


def test_half_precision_storage_rounds_once(tokenizer, tmp_path):
    save_bundle(tmp_path / "half", tokenizer, "", dtype=torch.float16)
    loaded = load_bundle(tmp_path / "half").tokenizer
    again = save_bundle(tmp_path / "again", loaded, "", dtype=torch.float16)
    assert load_bundle(tmp_path / "half").hash == again
    assert all(v.dtype == torch.float32 for v in loaded.state_dict().values())


def test_the_head_keeps_full_precision(bundle):
    loaded = load_bundle(bundle, dtype=torch.bfloat16).tokenizer
    assert loaded.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in loaded.head.parameters())
    with torch.inference_mode():
        out = loaded.reconstruct(torch.randint(0, 256, (1, 1, 16, 16, 3), dtype=torch.uint8))
    assert out.dtype == torch.uint8


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_changed_byte_is_found(bundle, file, place):
    data = bytearray((bundle / file).read_bytes())
    where = min(int(place * len(data)), len(data) - 2)  # the config's last byte is a line end
    data[where] ^= 1
    (bundle / file).write_bytes(data)
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle)
    assert "\n" not in str(caught.value)


def rewrite(bundle: Path, **changes: object) -> None:
    record = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps(record | changes))


def break_truncate(bundle: Path) -> None:
    data = (bundle / "model.safetensors").read_bytes()
    (bundle / "model.safetensors").write_bytes(data[: len(data) // 2])


def break_pickle(bundle: Path) -> None:
    torch.save({"a": torch.zeros(1)}, bundle / "model.safetensors")


BREAKS = {
    "no weights": (lambda b: (b / "model.safetensors").unlink(), "has no model.safetensors"),
    "no config": (lambda b: (b / "config.json").unlink(), "has no config.json"),
    "truncated": (break_truncate, "is damaged"),
    "another kind": (break_pickle, "is damaged"),
    "not JSON": (lambda b: (b / "config.json").write_text("{"), "is not JSON"),
    "a list": (lambda b: (b / "config.json").write_text("[]"), "names its format"),
    "unknown key": (lambda b: rewrite(b, colour="red"), "exactly the keys"),
    "future format": (lambda b: rewrite(b, format="omnitok-tokenizer/9"), "this version reads"),
    "edited": (lambda b: rewrite(b, licence="none"), "changed after it was written"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_bundles_get_one_sentence(bundle, kind):
    damage, message = BREAKS[kind]
    damage(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(bundle)
    assert "\n" not in str(caught.value)


def test_no_folder_gets_one_sentence(tmp_path):
    with pytest.raises(BundleError, match="no such folder"):
        load_bundle(tmp_path / "absent")


def test_nothing_else_is_overwritten(tokenizer, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    with pytest.raises(BundleError, match="not replaced"):
        save_bundle(tmp_path / "notes", tokenizer, "")
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


def test_a_project_with_a_config_is_no_bundle(tokenizer, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="names its format"):
        save_bundle(tmp_path / "project", tokenizer, "")
    assert (tmp_path / "project" / "config.json").read_text() == "{}"


def test_files_beside_a_bundle_are_kept(tokenizer, bundle):
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="not replaced"):
        save_bundle(bundle, tokenizer, "")
    assert (bundle / "notes.txt").read_text() == "mine"


def test_links_are_not_replaced(tokenizer, bundle, tmp_path):
    (tmp_path / "link").symlink_to(bundle)
    with pytest.raises(BundleError, match="is not a folder"):
        save_bundle(tmp_path / "link", tokenizer, "")


def test_a_failed_replacement_leaves_the_old_bundle(tokenizer, bundle, monkeypatch):
    before, rename = load_bundle(bundle).hash, Path.rename

    def fail_for_the_fresh_one(self: Path, target: Path) -> Path:
        if self.name == "bundle":
            raise OSError("disk gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_fresh_one)
    with pytest.raises(OSError, match="disk gone"):
        save_bundle(bundle, tokenizer, "new card")
    assert load_bundle(bundle).hash == before


def test_files_are_on_the_disk_before_the_bundle_has_its_name(tokenizer, tmp_path, monkeypatch):
    events, sync, rename = [], os.fsync, Path.rename

    def noted_sync(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def noted_rename(path, target):
        events.append(target)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    save_bundle(tmp_path / "tiny", tokenizer, "# Tiny\n")
    *synced, named = events
    assert named == tmp_path / "tiny"
    files = (WEIGHTS_FILE, CARD_FILE, CONFIG_FILE)
    assert all(name.endswith(f".{file}") for name, file in zip(synced, files, strict=True))  # each by a temporary name


@pytest.mark.parametrize(
    ("network", "message"), [(3, "must be a mapping"), ({"width": 10**6}, "tensors"), ({"depth": 1}, "Unknown")]
)
def test_a_config_with_a_right_hash_is_still_checked(bundle, network, message):
    config = replace(read_config(bundle), network=network)
    (bundle / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": [1]}, "licence must be"),
        ({"weights_sha256": "abc"}, "64 hex digits"),
        ({"kind": "generator"}, "names its tokenizer"),
        ({"tokenizer_hash": "f" * 64}, "names no other"),
        ({"kind": "discriminator"}, "tokenizer or a generator"),
    ],
)
def test_a_config_refuses_values_out_of_range(bundle, change, message):
    with pytest.raises(BundleError, match=message):
        replace(read_config(bundle), **change)


def test_a_generator_names_its_tokenizer(bundle):
    tokenizer_hash = load_bundle(bundle).hash
    config = BundleConfig("generator", {"layers": 2}, "0" * 64, tokenizer_hash=tokenizer_hash)
    assert BundleConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert replace(config, tokenizer_hash="f" * 64).hash != config.hash
    (bundle / "config.json").write_text(json.dumps(config.to_dict()))
    assert read_config(bundle) == config
    with pytest.raises(BundleError, match=f"generator of tokenizer {tokenizer_hash}"):
        load_bundle(bundle)


def test_a_tokenizer_holds_no_field_of_a_generator(bundle):
    rewrite(bundle, tokenizer_hash="f" * 64)
    with pytest.raises(BundleError, match="exactly the keys"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("name", "content_hash"),
    [
        ("demo-vq", "4d91ad0213685c5978bd7654403c4a085fbb82a6ec4d1eef2e8d3074e7d81b57"),
        ("demo-vq-sharp", "fa0475a8e55309e8a320b70a018c6c828f4c37dbc5a0907b7b0a5fcdff9c58fc"),
        ("demo-vq-fine", "966867bdac17ae20b77c6443df5b923c7a22d6da4beeb3d2f7231536375bd395"),
        ("demo-vae", "a0cb6cbf5f389033f9b1c0b9862707169ae5fb4bbc98232d8f3f4569ec41e43a"),
    ],
)
def test_the_bundles_of_the_repository_keep_their_hash(name, content_hash):
    assert read_config(Path(__file__).parents[2] / "bundles" / name).hash == content_hash


def test_a_bundle_replaces_a_bundle(tokenizer, bundle):
    save_bundle(bundle, tokenizer, "new card")
    assert (bundle / "README.md").read_text() == "new card"
    assert [p.name for p in bundle.parent.iterdir()] == ["tiny"]
