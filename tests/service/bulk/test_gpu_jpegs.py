"""JPEGs that a GPU decodes: who decodes which, one damaged file spoils no other, and the options say so."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bulk_samples import EXECUTOR, SQUARES, LocalExecutor, Tokenize, content, photo
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks import bulk_jpegs
from model.codes.info import CodesError, EncodingOptions
from model.codes.reader import manifest, open_encoded, read_kind
from service.bulk import encoder, reading
from service.bulk.batches import SharedEngine
from service.bulk.encoder import Workplace
from service.bulk.errors import BulkError
from service.bulk.reading import read_views
from service.bulk.sources import WHOLE_FILE, Item, list_source
from service.engine.jpegs import JpegDecoder, NoJpegEnginesError, decodes_like_media, open_jpeg_engines
from service.engine.tokenizer import Engine

GPU = replace(SQUARES, jpeg="gpu", flips=True)
CPU = replace(GPU, jpeg="cpu")


class Engines:
    """Pillow as the engines of a GPU; a file that it refuses costs all that travel with it."""

    def __init__(self, refused: Callable[[bytes], bool] = lambda data: False) -> None:
        self._refused = refused
        self.seen: list[list[bytes]] = []

    def __call__(self, files: Sequence[NDArray[np.uint8]]) -> list[Tensor | None]:
        self.seen.append([data.tobytes() for data in files])
        if any(map(self._refused, self.seen[-1])):
            return [None] * len(files)
        return [self._pixels(data) for data in self.seen[-1]]

    def _pixels(self, data: bytes) -> Tensor:
        return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))


class GpuExecutor(LocalExecutor):
    """A tokenizer on the CPU that is taken for one on a GPU."""

    def __init__(self) -> None:
        self.workplace = Workplace("cuda", "float32", 1, 1)

    def run(self, *arguments: Any) -> None:
        LocalExecutor.run(EXECUTOR, *arguments)


def use(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "open_jpeg_engines", lambda: JpegDecoder(engines))
    monkeypatch.setattr(Engine, "resizes_pictures", lambda self: True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Plain JPEGs, and pictures that are left to readers, of which one is too damaged to show."""
    path = tmp_path / "data"
    path.mkdir()
    for seed in range(6):
        (path / f"plain-{seed}.jpg").write_bytes(photo(seed))
    picture = Image.open(io.BytesIO(photo(6)))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(path / "turned.jpg", exif=turned)
    picture.save(path / "slow.jpg", progressive=True)
    picture.convert("CMYK").save(path / "print.jpg")
    picture.save(path / "lossless.png")
    picture.resize((640, 480)).save(path / "large.jpg")
    (path / "cut.jpg").write_bytes(photo(7)[:200])
    return path


@pytest.mark.parametrize("container", ["parquet", "tar"])
def test_plain_jpegs_go_to_the_gpu_and_all_items_are_encoded(
    tokenize: Tokenize, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: Any
) -> None:
    engines = Engines()
    tokenize(tmp_path / "usual", folder, CPU, container=container)
    use(engines, monkeypatch)
    tokenize(tmp_path / "gpu", folder, GPU, container=container, executor=GpuExecutor())
    usual, info = open_encoded(tmp_path / "usual"), open_encoded(tmp_path / "gpu")
    assert info.options.jpeg == "gpu"
    wanted, found = (read_kind(tmp_path / name, one, "images") for name, one in (("usual", usual), ("gpu", info)))
    assert (found.keys, found.views, found.flips) == (wanted.keys, wanted.views, wanted.flips)
    for codes, same in zip(found.codes, wanted.codes, strict=True):
        assert np.array_equal(codes, same)
    plain = {path.read_bytes() for path in folder.glob("plain-*.jpg")}
    assert sorted(data for batch in engines.seen for data in batch) == sorted(plain)  # once, mirror images too
    for key, steps in zip(found.keys, found.preprocess, strict=True):
        assert steps.get("decoder") == ("gpu" if key.startswith("plain") else None)
    assert all("decoder" not in steps for steps in wanted.preprocess)
    records = list(manifest(tmp_path / "gpu", info, "images"))
    assert {record["key"]: record.get("decoder") for record in records} == {
        path.name: {"plain": "gpu", "cut.j": None}.get(path.name[:5], "cpu") for path in folder.iterdir()
    }
    assert all("decoder" not in record for record in manifest(tmp_path / "usual", usual, "images"))


def test_what_the_gpu_refuses_is_decoded_by_readers_and_spoils_nothing(
    tokenize: Tokenize, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = {(folder / name).read_bytes() for name in ("plain-1.jpg", "plain-4.jpg")}
    lost = bytearray(photo(8))
    lost[lost.index(b"\xff\xdb") : lost.index(b"\xff\xdb") + 2] = b"\xff\xfe"  # no tables: nobody can decode it
    (folder / "plain-lost.jpg").write_bytes(lost)
    tokenize(tmp_path / "usual", folder, CPU)
    engines = Engines(lambda data: data in {*damaged, bytes(lost)})
    use(engines, monkeypatch)
    outcome = tokenize(tmp_path / "gpu", folder, GPU, executor=GpuExecutor())
    usual, info = open_encoded(tmp_path / "usual"), open_encoded(tmp_path / "gpu")
    records = {record["key"]: record for record in manifest(tmp_path / "gpu", info, "images")}
    before = {record["key"]: record for record in manifest(tmp_path / "usual", usual, "images")}
    assert {key: record["status"] for key, record in records.items()} == {
        key: record["status"] for key, record in before.items()
    }
    assert records["plain-lost.jpg"]["reason"] == before["plain-lost.jpg"]["reason"]
    assert outcome.failed >= 1
    wanted, found = (read_kind(tmp_path / name, one, "images") for name, one in (("usual", usual), ("gpu", info)))
    assert found.keys == wanted.keys
    for codes, same in zip(found.codes, wanted.codes, strict=True):
        assert np.array_equal(codes, same)
    for key, steps in zip(found.keys, found.preprocess, strict=True):
        gpu = key.startswith("plain") and key not in ("plain-1.jpg", "plain-4.jpg")
        assert steps.get("decoder") == ("gpu" if gpu else None)
    assert records["plain-1.jpg"]["decoder"] == "cpu"
    assert records["plain-2.jpg"]["decoder"] == "gpu"


def test_another_decoder_does_not_continue_a_data_set(
    tokenize: Tokenize, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(tmp_path / "codes", folder, CPU)
    before = content(tmp_path / "codes")
    use(Engines(), monkeypatch)
    with pytest.raises(BulkError, match="codes with another options"):
        tokenize(tmp_path / "codes", folder, GPU, executor=GpuExecutor())
    assert content(tmp_path / "codes") == before


def test_a_place_without_engines_is_refused_at_the_start(
    tokenize: Tokenize, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BulkError, match="Only a GPU has engines for JPEGs"):
        tokenize(tmp_path / "codes", folder, GPU)
    with pytest.raises(BulkError, match="nvImageCodec"):
        tokenize(tmp_path / "codes", folder, GPU, executor=GpuExecutor())
    monkeypatch.setattr(encoder, "open_jpeg_engines", lambda: JpegDecoder(Engines()))
    with pytest.raises(BulkError, match="this device does not"):
        tokenize(tmp_path / "codes", folder, GPU, executor=GpuExecutor())
    assert not list((tmp_path / "codes").glob("*.parquet"))


def test_options_that_leave_nothing_to_a_gpu_are_refused() -> None:
    with pytest.raises(CodesError, match="must be one of cpu, gpu"):
        EncodingOptions(32, 32, jpeg="tpu")  # type: ignore[arg-type]
    with pytest.raises(CodesError, match="needs a size"):
        EncodingOptions(jpeg="gpu")


def test_engines_are_tried_before_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Swapped(Engines):
        def _pixels(self, data: bytes) -> Tensor:
            return super()._pixels(data).flip(-1)

    assert decodes_like_media(JpegDecoder(Engines()))
    assert not decodes_like_media(JpegDecoder(Swapped()))
    assert not decodes_like_media(JpegDecoder(Engines(lambda data: True)))
    with pytest.raises(NoJpegEnginesError, match="nvImageCodec"):
        open_jpeg_engines()
    monkeypatch.setattr("service.engine.jpegs.NvImageCodec", lambda: Engines(lambda data: True))
    with pytest.raises(NoJpegEnginesError, match="may have no JPEG engines"):
        open_jpeg_engines()


def test_the_benchmark_compares_both_decoders(bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = Engines(lambda data: data not in known)
    known = {path.read_bytes() for path in folder.glob("plain-*.jpg")}
    items = [one for one in list_source(folder).items["images"] if one.key.startswith("plain")]
    monkeypatch.setattr(bulk_jpegs, "BATCHES", (2,))
    monkeypatch.setattr(bulk_jpegs, "NvImageCodec", lambda *arguments: damaged)
    engine = SharedEngine(Engine([bundle], "cpu", "float32", 1), "tokens", JpegDecoder(damaged))
    lines = list(bulk_jpegs.report(engine, items, GPU, 0.1))
    assert len(lines) == 3 * len(bulk_jpegs.VARIANTS) + 1
    assert "0.0% of the values differ" in lines[1]
    assert "6 JPEGs with a wrong byte: 6 refused, 0 come out otherwise among others; 0 whole ones" in lines[2]
    assert lines[-1].startswith("engines: 0.00% of ")


def test_a_panorama_is_left_to_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wide.jpg"
    path.write_bytes(photo(0, 48, 640))
    item = Item("wide.jpg", -1, str(path), path.stat().st_size, 0, WHOLE_FILE)
    [view] = read_views(item, "images", SQUARES, leave_resize=True, leave_jpegs=True)[1]
    assert view.jpeg == (48, 640)
    assert view.pixels.tobytes() == path.read_bytes()
    monkeypatch.setattr(reading, "DEVICE_JPEG_PIXELS", 48 * 640 - 1)
    [view] = read_views(item, "images", SQUARES, leave_resize=True, leave_jpegs=True)[1]
    assert view.jpeg is None
    assert view.pixels.shape == (1, 48, 640, 3)
