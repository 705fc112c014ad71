"""Runs over a data set: every item once with the service's own pixels, and the same after any interruption."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bulk_samples import EXECUTOR, SQUARES, Stopping, Tokenize, clip, content, photo
from waiting import SECONDS

from media.reader import open_frames
from media.types import MediaOptions
from model.bundle import load_bundle
from model.codes.info import EncodingOptions
from model.codes.reader import manifest, open_encoded, read_kind
from service.bulk import decoder_pool
from service.bulk.decoder import Failed, Read
from service.bulk.errors import BulkError
from service.bulk.job import Job, Request
from service.bulk.plan import QUARANTINE_FILE
from service.bulk.reading import read_bytes
from service.bulk.sources import list_source
from service.engine.tokenizer import Engine
from service.scheduling.executor import OutOfMemory


def encoded(bundle: Path, path: Path, options: MediaOptions, frames: int | None = None) -> np.ndarray:
    """Tokens of a file as the service makes them; the last frame is held."""
    with path.open("rb") as file:
        shown = np.stack(list(open_frames(file, None, options)))
    if frames is not None:
        shown = shown[np.minimum(np.arange(frames), len(shown) - 1)]
    with torch.inference_mode():
        tokens: np.ndarray = load_bundle(bundle).tokenizer.encode(torch.from_numpy(shown)[None])[0].numpy()
    return tokens


def test_every_item_is_encoded_once_or_listed_with_the_reason(
    tokenize: Tokenize, source: Path, bundle: Path, tmp_path: Path
) -> None:
    outcome = tokenize(tmp_path)
    info = open_encoded(tmp_path)
    assert outcome.info == info
    assert info.classes == ("ant", "bee")
    assert info.rows == {"images": 7, "clips": 2}
    records = list(manifest(tmp_path, info, "images"))
    assert [record["key"] for record in records] == sorted(
        str(path.relative_to(source)) for path in source.rglob("*.*") if path.suffix != ".mp4"
    )
    quarantine = [json.loads(line) for line in (tmp_path / QUARANTINE_FILE).read_text().splitlines()]
    assert {line["key"]: line["reason"] for line in quarantine} == {
        "ant/cut.jpg": "The image/jpeg file cannot be decoded: it is damaged or cut off.",
        "bee/none.png": "The file is empty.",
    }
    assert outcome.failed == 2
    for kind, frames in (("images", 1), ("clips", 5)):
        rows = read_kind(tmp_path, info, kind)
        options = MediaOptions(size=(32, 32), frames=frames)
        for key, label, codes in zip(rows.keys, rows.labels, rows.codes, strict=True):
            assert info.classes[label] == key.split("/")[0]
            assert codes.dtype == np.uint16
            assert np.array_equal(codes, encoded(bundle, source / key, options, frames))


@pytest.mark.parametrize("container", ["parquet", "tar", "npy"])
def test_a_killed_run_goes_on_to_the_same_files(tokenize: Tokenize, tmp_path: Path, container: str) -> None:
    options: dict[str, Any] = {"container": container, "shard_items": 2, "kinds": ("images",)}
    tokenize(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path / "killed", **options, executor=Stopping(2))
    with pytest.raises(Exception, match="has not ended"):
        open_encoded(tmp_path / "killed")
    assert tokenize(tmp_path / "killed", **options).kept == 4
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_content_decides_what_is_encoded_again(tokenize: Tokenize, tmp_path: Path) -> None:
    folder, dest = tmp_path / "data", tmp_path / "codes"
    folder.mkdir()
    for seed in range(4):
        (folder / f"{seed}.jpg").write_bytes(photo(seed))
    tokenize(dest, folder, shard_items=1)
    before = content(dest)
    os.utime(folder / "0.jpg")
    (folder / "1.jpg").write_bytes(photo(11))
    assert tokenize(dest, folder, shard_items=1).kept == 3
    after = content(dest)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"images-00001.parquet", "manifest/images-00000.jsonl", "manifest/images-00001.jsonl"}
    (folder / "3.jpg").unlink()
    assert tokenize(dest, folder, shard_items=1).info.rows == {"images": 3}
    assert not (dest / "images-00003.parquet").exists()


def test_a_tree_of_npy_keeps_nothing_of_items_that_are_gone(tokenize: Tokenize, tmp_path: Path) -> None:
    folder, dest = tmp_path / "data", tmp_path / "codes"
    folder.mkdir()
    for seed in range(6):
        (folder / f"{seed}.jpg").write_bytes(photo(seed))
    options: dict[str, Any] = {"container": "npy", "shard_items": 2}
    tokenize(dest, folder, **options)
    codes = dest / "imagenet32_codes"
    (folder / "1.jpg").write_bytes(b"damaged")
    (folder / "5.jpg").unlink()
    (codes / ".7.3.npy").write_bytes(b"half")
    (codes / "3.npy").unlink()
    assert tokenize(dest, folder, **options).kept == 0
    for name in ("imagenet32_codes", "imagenet32_labels"):
        assert sorted(path.name for path in (dest / name).iterdir()) == ["0.npy", "2.npy", "3.npy", "4.npy"]


def test_a_mistaken_source_deletes_nothing_unasked(tokenize: Tokenize, tmp_path: Path) -> None:
    folder, other, dest = tmp_path / "data", tmp_path / "other", tmp_path / "codes"
    for seed in range(4):
        for path in (folder, other):
            path.mkdir(exist_ok=True)
            (path / f"{seed}.jpg").write_bytes(photo(seed))
    tokenize(dest, folder, shard_items=1)
    (dest / "mine.parquet").write_bytes(b"mine")
    before = content(dest)
    with pytest.raises(BulkError, match=r"holds codes of 'data', and the source is 'other'\. If that is meant"):
        tokenize(dest, other, shard_items=1)
    (folder / "2.jpg").unlink()
    (folder / "3.jpg").unlink()
    with pytest.raises(BulkError, match="2 of 4 finished shards would be deleted"):
        tokenize(dest, folder, shard_items=1)
    assert content(dest) == before
    tokenize(dest, folder, shard_items=1, replace_source=True)
    assert {path.name for path in dest.glob("*.parquet")} == {
        "images-00000.parquet",
        "images-00001.parquet",
        "mine.parquet",
    }


def test_views_and_mirror_images_are_rows_of_their_own(
    tokenize: Tokenize, source: Path, bundle: Path, tmp_path: Path
) -> None:
    options = EncodingOptions(32, 32, flips=True, views=2)
    tokenize(tmp_path, options=options, kinds=("images",))
    rows = read_kind(tmp_path, open_encoded(tmp_path), "images")
    assert list(zip(rows.views, rows.flips, strict=True))[:4] == [(0, False), (0, True), (1, False), (1, True)]
    with (source / rows.keys[0]).open("rb") as file:
        pixels = torch.from_numpy(np.stack(list(open_frames(file, None, MediaOptions(size=(32, 32))))))[None]
    with torch.inference_mode():
        assert np.array_equal(rows.codes[1], load_bundle(bundle).tokenizer.encode(pixels.flip(3))[0].numpy())


def test_clips_without_a_number_of_frames_are_encoded_whole(
    tokenize: Tokenize, source: Path, bundle: Path, tmp_path: Path
) -> None:
    tokenize(tmp_path, options=EncodingOptions(), kinds=("clips",))
    rows = read_kind(tmp_path, open_encoded(tmp_path), "clips")
    assert [len(codes) for codes in rows.codes] == [3, 2]  # of 9 and of 3 frames
    for key, codes in zip(rows.keys, rows.codes, strict=True):
        assert np.array_equal(codes, encoded(bundle, source / key, MediaOptions()))


def test_pictures_may_keep_their_sizes(tokenize: Tokenize, source: Path, bundle: Path, tmp_path: Path) -> None:
    tokenize(tmp_path, options=EncodingOptions(), kinds=("images",))
    rows = read_kind(tmp_path, open_encoded(tmp_path), "images")
    assert len({codes.shape for codes in rows.codes}) == 2
    assert np.array_equal(rows.codes[0], encoded(bundle, source / rows.keys[0], MediaOptions()))


def test_pictures_that_the_device_resizes_give_the_same_shards(
    tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EncodingOptions(24, 32, flips=True, views=2)
    tokenize(tmp_path / "here", options=options, kinds=("images",))
    monkeypatch.setattr(Engine, "resizes_pictures", lambda self: True)
    tokenize(tmp_path / "there", options=options, kinds=("images",))
    assert content(tmp_path / "here") == content(tmp_path / "there")


@pytest.mark.parametrize("resizes", [True, False])
def test_clips_of_one_size_are_encoded_where_readers_put_them(
    tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resizes: bool
) -> None:
    monkeypatch.setattr(Engine, "resizes_pictures", lambda self: resizes)
    launch, copied = Engine.launch, []

    def note(engine: Engine, key: Any, payloads: Any, staged: Any) -> Any:
        copied.extend(pixels.base is None for pixels in payloads)
        return launch(engine, key, payloads, staged)

    monkeypatch.setattr(Engine, "launch", note)
    tokenize(tmp_path, kinds=("clips",))
    assert copied == [False, False]


def test_files_that_take_forever_are_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "c.jpg", "e.jpg"):
        (tmp_path / name).write_bytes(photo(0))
    for name in ("b.jpg", "d.jpg"):
        os.mkfifo(tmp_path / name)
    a, b, c, d, e = list_source(tmp_path).items["images"]
    stuck = tmp_path / "stuck"  # is there while a process waits at a pipe
    boot = f"""
import os, sys
def note(event, arguments):
    if event == "open" and arguments[0] in {(b.file, d.file)!r}:
        os.close(os.open({str(stuck)!r}, os.O_CREAT))
if os.path.exists({str(stuck)!r}):
    os.unlink({str(stuck)!r})
sys.addaudithook(note)
"""

    class Clockwork(Connection):
        """Lets the time of an item pass at pipes alone: a busy machine is slow at files too."""

        def poll(self, timeout: float | None = 0.0) -> bool:
            while not super().poll(0.01):
                if timeout == decoder_pool.ITEM_SECONDS and stuck.exists():
                    return False
            return True

    monkeypatch.setattr(decoder_pool, "_BOOT", boot + decoder_pool._BOOT)
    monkeypatch.setattr(decoder_pool, "Connection", Clockwork)
    pool = decoder_pool.DecoderPool(1, EncodingOptions(32, 42), 3, 32 * 42 * 3)  # one picture fills a slot to its end
    try:
        chunks = [chunk.result() for chunk in [pool.submit(items, "images") for items in ([a, b], [c], [d, e])]]
    finally:
        pool.close()
    assert [[type(item) for item in chunk.items] for chunk in chunks] == [[Read, Failed], [Read], [Failed, Read]]
    assert chunks[0].items[1] == Failed("Reading takes longer than 120 s.", retry=True)


@pytest.mark.parametrize("scribble", ["", "mmap.mmap(*map(int, sys.argv[2:4]))[:] = b'?' * int(sys.argv[3])"])
def test_a_process_that_ends_while_it_starts_costs_one_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scribble: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(0))
    items, marker = list_source(tmp_path).items["images"], tmp_path / "started"
    lines = f"open({str(marker)!r}, 'w')", scribble or "pass", "os._exit(1)"
    boot = f"import mmap, os, sys\nif not os.path.exists({str(marker)!r}):\n    {'; '.join(lines)}\n"
    monkeypatch.setattr(decoder_pool, "_BOOT", boot + decoder_pool._BOOT)
    pool = decoder_pool.DecoderPool(1, EncodingOptions(32, 32), 4, 2 * 32 * 32 * 3)
    try:
        chunks = [chunk.result(300) for chunk in [pool.submit(items * 2, "images") for _ in range(2)]]
    finally:
        pool.close()
    first, second = ([type(item) for item in chunk.items] for chunk in chunks)
    assert (first in ([Failed, Read], [Read, Failed]), second) == (True, [Read, Read])


def test_processes_that_do_not_start_keep_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pool: decoder_pool.DecoderPool) -> decoder_pool.DecoderProcess:
        raise RuntimeError("A process that reads files did not start.")

    monkeypatch.setattr(decoder_pool.DecoderPool, "start_process", refuse)
    pool = decoder_pool.DecoderPool(1, EncodingOptions(32, 32), decoder_pool.JOBS_SENT - 1, 1)
    for chunk in [pool.submit([], "images") for _ in range(decoder_pool.JOBS_SENT)]:
        with pytest.raises(RuntimeError):
            chunk.result(SECONDS)
    assert pool.memory.take(wait=False) is not None, "the thread that waits for a task has one of two"
    pool.close()


def test_items_of_shards_that_began_earlier_are_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(0))
    items = list_source(tmp_path).items["images"]
    submitted, start = threading.Event(), decoder_pool.DecoderPool.start_process

    def start_later(pool: decoder_pool.DecoderPool) -> decoder_pool.DecoderProcess:
        assert submitted.wait(SECONDS)
        return start(pool)

    monkeypatch.setattr(decoder_pool.DecoderPool, "start_process", start_later)
    pool = decoder_pool.DecoderPool(1, EncodingOptions(32, 32), 6, 32 * 32 * 3)
    read: list[int] = []
    try:
        chunks = [pool.submit(items, "images", order) for order in (1, 1, 1, 1, 0)]
        for number, chunk in enumerate(chunks):
            chunk.add_done_callback(lambda _, number=number: read.append(number))
        submitted.set()
        for chunk in chunks:
            chunk.result()
    finally:
        pool.close()
    assert read.index(4) <= decoder_pool.JOBS_SENT < read.index(3)


def test_what_failed_by_the_machine_is_tried_again(
    tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, dest = tmp_path / "data", tmp_path / "codes"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo(0))
    (folder / "b.jpg").write_bytes(photo(1)[:200])
    engine_launch = Engine.launch

    def full(*arguments: Any) -> Any:
        raise OutOfMemory

    monkeypatch.setattr(Engine, "launch", full)
    assert tokenize(dest, folder, shard_items=1).failed == 2
    monkeypatch.setattr(Engine, "launch", engine_launch)
    outcome = tokenize(dest, folder, shard_items=1)
    assert (outcome.kept, outcome.failed) == (1, 1)


def test_items_of_many_tars_keep_no_descriptors(tmp_path: Path) -> None:
    for number in range(12):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    items = list_source(tmp_path).items["images"]
    assert {read_bytes(item) for item in items} == {b"abc"}
    opened = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert not [entry for entry in opened if entry.resolve().is_relative_to(tmp_path)]


def test_runs_that_would_mix_are_refused(tokenize: Tokenize, source: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BulkError, match="is not empty and holds no codes"):
        tokenize(tmp_path)
    with pytest.raises(BulkError, match="read its own output"):
        tokenize(source / "codes")
    with pytest.raises(BulkError, match="does not exist"):
        list_source(tmp_path / "nothing")
    with pytest.raises(BulkError, match="--size"):
        tokenize(tmp_path, container="npy", kinds=("images",), options=EncodingOptions())
    with pytest.raises(BulkError, match="Choose one with --kind"):
        tokenize(tmp_path, container="npy")
    dest = tmp_path / "codes"
    with pytest.raises(KeyboardInterrupt):
        tokenize(dest, shard_items=1, executor=Stopping(0))
    with pytest.raises(BulkError, match="differ in --flips:"):
        tokenize(dest, shard_items=1, options=replace(SQUARES, flips=True))
    with pytest.raises(BulkError, match="differ in --shard-items, --size, --frames:"):
        tokenize(dest, shard_items=2, options=replace(SQUARES, height=64, width=64, frames=9))


def test_a_sample_says_how_long_the_run_will_take(source: Path, bundle: Path, tmp_path: Path) -> None:
    job = Job(Request(source, tmp_path / "codes", bundle, SQUARES))
    estimate = job.estimate(EXECUTOR.workplace, 2)
    assert estimate.items == 11
    assert estimate.seconds == pytest.approx(11 / estimate.rate)
    assert estimate.bytes > 0
    assert not (tmp_path / "codes").exists()


def test_a_short_clip_of_a_folder_named_as_a_picture_fails_alone(tokenize: Tokenize, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(clip(0, 2))
    (folder / "b.jpg").write_bytes(photo(0))
    assert tokenize(tmp_path / "codes", folder).failed == 1
