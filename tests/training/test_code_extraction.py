"""Codes of a folder: encoded once, resumed at once, drawn by number alone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from model.bundle import Bundle, load_bundle, save_bundle
from model.codes.info import CodesError, read_info, write_info
from model.codes.reader import manifest, read_kind
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from training.__main__ import app
from training.data.files import find_sources
from training.data.loaders.batch import BatchSpec
from training.distributed import Ranks
from training.errors import TrainingError
from training.generator import extraction
from training.generator.code_set import ExtractionOptions
from training.generator.encoded import open_encoded_codes
from training.generator.extraction import extract
from training.generator.token_dataset import CodeLoader
from training.tokenizer.head_transfer import with_head

OPTIONS = ExtractionOptions(side=32, frames=5, views=2)


def bundle_of(folder: Path, head: str) -> Bundle:
    torch.manual_seed(0)
    save_bundle(folder / head, OmniTokenizer(with_head(CONFIGS["debug"], head)), "random weights")
    return load_bundle(folder / head)


@pytest.fixture(scope="module")
def vq(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("vq"), "vq")


def test_files_become_rows_with_their_class_views_and_mirror_images(files: Path, vq: Bundle, tmp_path: Path) -> None:
    codes = extract(vq, files, tmp_path, OPTIONS)
    assert codes.info.classes == ("backward", "forward", "sky", "snow")
    assert codes.info.rows == {"images": 12 * 4, "clips": 6 * 4}
    images, clips = codes.kinds["images"], codes.kinds["clips"]
    assert images.codes.shape == (48, *codes.info.grid("images"))
    assert clips.codes.shape == (24, *codes.info.grid("clips"))
    assert images.items.tolist() == [item for item in range(12) for _ in range(4)]
    assert images.labels.tolist() == [2] * 24 + [3] * 24
    assert clips.labels.tolist() == [0] * 12 + [1] * 12
    first = sorted((files / "images" / "sky").iterdir())[0]
    source = find_sources(files)[0]
    assert source is not None
    assert source.place(0) == str(first)
    pixels = torch.from_numpy(source.read(0, 32, 5).pixels)[None]
    with torch.inference_mode():
        assert torch.equal(images.codes[0].long(), vq.tokenizer.encode(pixels)[0])
        assert torch.equal(images.codes[1].long(), vq.tokenizer.encode(pixels.flip(3))[0])


def test_a_stopped_extraction_goes_on_and_a_whole_one_is_opened(files: Path, vq: Bundle, tmp_path: Path) -> None:
    whole = extract(vq, files, tmp_path, OPTIONS)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    extract(vq, files, tmp_path, OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")} == stamps

    write_info(tmp_path, read_info(tmp_path).begun())
    gone, kept = sorted(stamps)
    gone.unlink()
    with pytest.raises(CodesError, match="has not ended"):
        open_encoded_codes(tmp_path)
    again = extract(vq, files, tmp_path, OPTIONS)
    assert kept.stat().st_mtime_ns == stamps[kept]
    assert all(torch.equal(again.kinds[kind].codes, whole.kinds[kind].codes) for kind in whole.kinds)
    with pytest.raises(TrainingError, match="another tokenizer, options or data"):
        extract(vq, files, tmp_path, replace(OPTIONS, flips=False))


def test_changed_data_of_equal_count_are_noticed(vq: Bundle, tmp_path: Path) -> None:
    data = tmp_path / "data" / "images"
    for name in ("a", "b"):
        (data / name).mkdir(parents=True)
        Image.new("RGB", (40, 32), "red").save(data / name / "0.png")
    codes, options = tmp_path / "codes", ExtractionOptions(32, flips=False)
    whole = extract(vq, tmp_path / "data", codes, options)
    (data / "b" / "0.png").touch()
    assert extract(vq, tmp_path / "data", codes, options).info == whole.info
    Image.new("RGB", (40, 32), "blue").save(data / "b" / "0.png")
    ended = read_info(codes)
    for info in (ended, ended.begun()):
        write_info(codes, info)
        with pytest.raises(TrainingError, match=r"holds codes of other data than .*a/0.png to .*b/0.png have now"):
            extract(vq, tmp_path / "data", codes, options)


def test_changed_pixels_of_a_set_are_noticed(data: Path, vq: Bundle, tmp_path: Path) -> None:
    options = ExtractionOptions(side=32, frames=5, flips=False)
    extract(vq, data, tmp_path / "codes", options)
    path = sorted((data / "train").glob("*/[0-9]*.npy"))[-1]
    pixels = np.load(path)
    pixels[-1] ^= 1
    np.save(path, pixels)
    with pytest.raises(TrainingError, match="holds codes of other data"):
        extract(vq, data, tmp_path / "codes", options)


def test_latents_come_with_their_moments_and_sets_of_pixels_are_cut(data: Path, tmp_path: Path) -> None:
    options = ExtractionOptions(side=32, frames=5, flips=False)
    codes = extract(bundle_of(tmp_path, "vae"), data, tmp_path / "codes", options)
    assert codes.info.classes == ()
    for kind in codes.kinds:
        keys = [record["key"] for record in manifest(tmp_path / "codes", read_info(tmp_path / "codes"), kind)]
        assert {key.rpartition("/")[0] for key in keys} <= {path.name for path in (data / "train").iterdir()}
    rows = codes.kinds["clips"]
    assert rows.codes.dtype == torch.float16
    assert rows.labels.unique().tolist() == [-1]
    assert codes.info.mean is not None
    assert codes.info.std is not None
    everything = torch.cat([one.codes.flatten(0, -2) for one in codes.kinds.values()]).double()
    torch.testing.assert_close(torch.tensor(codes.info.mean).double(), everything.mean(0), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(torch.tensor(codes.info.std).double(), everything.std(0, correction=0))


def test_codes_of_a_former_format_are_refused_with_the_remedy(files: Path, vq: Bundle, tmp_path: Path) -> None:
    (tmp_path / "codes.json").write_text(json.dumps({"format": "omnitok-codes/1", "tokenizer": "old"}))
    for use in (lambda: open_encoded_codes(tmp_path), lambda: extract(vq, files, tmp_path, OPTIONS)):
        with pytest.raises(CodesError, match=r"'omnitok-codes/1'.* delete the folder or choose another"):
            use()


def test_names_that_are_no_utf_8_are_encoded(vq: Bundle, tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    Image.new("RGB", (40, 32), "red").save(tmp_path / "data" / "images" / os.fsdecode(b"caf\xe9.png"))
    extract(vq, tmp_path / "data", tmp_path / "codes", ExtractionOptions(32, flips=False))
    assert read_kind(tmp_path / "codes", read_info(tmp_path / "codes"), "images").keys == [r"images/caf\udce9.png"]


def test_a_broken_file_is_left_out(files: Path, vq: Bundle, tmp_path: Path) -> None:
    data = tmp_path / "data" / "images"
    for name in ("a", "b"):
        (data / name).mkdir(parents=True)
        Image.new("RGB", (40, 32), "red").save(data / name / "0.png")
    (data / "a" / "1.png").write_bytes(b"nothing")
    codes = extract(vq, tmp_path / "data", tmp_path / "codes", ExtractionOptions(32, flips=False))
    assert codes.kinds["images"].items.tolist() == [0, 2]
    assert codes.kinds["images"].labels.tolist() == [0, 1]


def test_a_shard_of_broken_files_ends_the_run_unless_it_is_the_rest(
    vq: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extraction.SHARD_ITEMS, "images", 2)
    images, codes, options = tmp_path / "data" / "images", tmp_path / "codes", ExtractionOptions(32, flips=False)
    images.mkdir(parents=True)
    for name in ("0", "1", "2"):
        (images / f"{name}.png").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"None of 2 images can be read; the first: \S"):
        extract(vq, tmp_path / "data", codes, options)
    for name in ("0", "1"):
        Image.new("RGB", (40, 32), "red").save(images / f"{name}.png")
    for _ in range(2):
        assert extract(vq, tmp_path / "data", codes, options).kinds["images"].items.tolist() == [0, 1]


def test_the_loader_draws_by_number_and_shares_among_ranks(files: Path, vq: Bundle, tmp_path: Path) -> None:
    codes = extract(vq, files, tmp_path, OPTIONS)
    plan = [BatchSpec("images", 32, 4, 0, 1), BatchSpec("clips", 32, 2, 0, 5), BatchSpec("images", 32, 4, 4, 1)]
    cpu = torch.device("cpu")
    whole = list(CodeLoader(codes, cpu, 3).stream(plan))
    assert whole[1].codes.shape == (2, *codes.info.grid("clips"))
    later = next(CodeLoader(codes, cpu, 3).stream(plan[2:]))
    assert torch.equal(later.codes, whole[2].codes)
    shares = [next(CodeLoader(codes, cpu, 3, Ranks(rank, 2)).stream(plan)) for rank in range(2)]
    assert torch.equal(torch.cat([share.codes for share in shares]), whole[0].codes)
    assert torch.equal(torch.cat([share.labels for share in shares]), whole[0].labels)
    rows = 48 + 24 * codes.info.causal  # first frames of clips are images too
    epoch = next(CodeLoader(codes, cpu, 3).stream([BatchSpec("images", 32, rows, 0, 1)]))
    parts = [part.labels for kind, part in codes.kinds.items() if kind == "images" or codes.info.causal]
    assert sorted(epoch.labels.tolist()) == sorted(torch.cat(parts).tolist())
    with pytest.raises(TrainingError, match="not 1 of 64"):
        CodeLoader(codes, cpu, 3).check(BatchSpec("images", 64, 4, 0, 1))


def test_the_command_writes_codes(files: Path, vq: Bundle, tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", vq.tokenizer, "random weights")
    arguments = ["data", "codes", files, "--tokenizer", tmp_path / "bundle", "--out", tmp_path / "codes", "--side", 32]
    command = [*map(str, arguments), "--frames", "5", "--device", "cpu"]
    refused = CliRunner().invoke(app, [*command, "--fps", "nan"])
    assert refused.exit_code == 2
    assert "--fps" in refused.output
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert open_encoded_codes(tmp_path / "codes").info.tokenizer_hash == vq.hash
    records = list(manifest(tmp_path / "codes", read_info(tmp_path / "codes"), "images"))
    assert [(record["status"], record["rows"]) for record in records] == [("done", 2)] * 12
    names = sorted(str(path.relative_to(files)) for path in (files / "images").rglob("*.*"))
    assert [record["key"] for record in records] == names
