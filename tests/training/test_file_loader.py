"""The loader of files: items by number alone, whatever ranks, workers and resumption; broken files never stop a run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from training.data.files import Source, find_sources
from training.data.loaders.batch import BatchSpec
from training.data.loaders.device_loader import DeviceLoader
from training.data.loaders.file_loader import FileLoader, decode
from training.data.loaders.item_rng import epoch_order, item_uniforms
from training.data.loaders.open_loader import open_loader
from training.distributed import Ranks
from training.errors import TrainingError

CPU = torch.device("cpu")
PLAN = [
    BatchSpec("images", 32, 4, 0, 1),
    BatchSpec("clips", 32, 2, 0, 17),
    BatchSpec("images", 48, 6, 4, 1),
    BatchSpec("clips", 24, 4, 2, 5),
    BatchSpec("images", 32, 4, 10, 1),
    BatchSpec("clips", 32, 2, 6, 17),
]


@pytest.fixture
def copy(files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files, tmp_path / "copy"))


def loader_of(root: Path, rank: int = 0, ranks: int = 1, workers: int = 0, fps: float | None = None) -> FileLoader:
    made = open_loader(root, CPU, 5, Ranks(rank, ranks), workers, fps)
    assert isinstance(made, FileLoader)
    return made


def images_of(root: Path) -> Source:
    source = find_sources(root)[0]
    assert source is not None
    return source


@given(st.sampled_from(["images", "clips"]), st.integers(0, 30), st.integers(1, 3), st.integers(1, 2))
@settings(max_examples=12)
def test_items_depend_on_their_number_alone(files: Path, kind: str, first: int, ranks: int, each: int) -> None:
    def one(count: int, start: int, rank: int = 0, of: int = 1) -> Tensor:
        frames = 1 if kind == "images" else 3
        return next(loader_of(files, rank, of).stream([BatchSpec(kind, 32, count, start, frames)]))  # type: ignore[arg-type]

    count = ranks * each
    whole = one(count, first)
    assert whole.dtype == torch.uint8
    assert whole.shape == (count, 1 if kind == "images" else 3, 32, 32, 3)
    assert whole.is_contiguous()
    assert torch.equal(whole, torch.cat([one(each * ranks, first, rank, ranks) for rank in range(ranks)]))
    assert torch.equal(whole, torch.cat([one(1, number) for number in range(first, first + count)]))


def test_workers_change_nothing_and_stop_when_closed(files: Path) -> None:
    """Two workers give what this process gives; a second stream starts over; closing in the middle ends them."""
    alone = list(loader_of(files, fps=8).stream(PLAN))
    loader = loader_of(files, workers=2, fps=8)
    try:
        first = loader.stream(PLAN)
        assert torch.equal(next(first), alone[0])
        together = list(loader.stream(PLAN[1:]))
        assert len(together) == len(PLAN) - 1
        assert all(torch.equal(*pair) for pair in zip(together, alone[1:], strict=True))
        open_stream = loader.stream(PLAN)
        next(open_stream)
        workers = loader._loader._iterator._workers  # type: ignore[union-attr]
        assert [worker.is_alive() for worker in workers] == [True, True]
    finally:
        loader.close()
    assert [worker.is_alive() for worker in workers] == [False, False]
    assert list(open_stream) == []
    loader.close()  # twice is once
    with pytest.raises(TrainingError, match="closed"):
        loader.stream(PLAN)


def test_an_exception_in_the_trainer_ends_the_workers(copy: Path) -> None:
    """Also the loader's own error, which is one sentence though it comes from another process."""
    for path in (copy / "clips").rglob("*.mp4"):
        path.write_bytes(b"")
    loader = loader_of(copy, workers=1)
    stream = loader.stream(PLAN)
    next(stream)
    workers = loader._loader._iterator._workers  # type: ignore[union-attr]
    with pytest.raises(
        TrainingError, match=r"^None of the 6 clips below .* can be read; the last one: The file is empty\.$"
    ) as error:
        next(stream)
    loader.close()  # while the error still holds the frames that it passed
    assert error.traceback
    assert not any(worker.is_alive() for worker in workers)
    assert len([row for row in loader.report()["broken"] if row["reason"] == "The file is empty."]) == 6


def colours(root: Path, count: int) -> Path:
    """Images of one grey each, which identifies them, with a bright left half."""
    for number in range(count):
        pixels = np.full((8, 8, 3), 4 * number, np.uint8)
        pixels[:, :4] += 128
        path = root / "images" / f"class-{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def test_every_epoch_takes_each_file_once_in_another_order(tmp_path: Path) -> None:
    loader = loader_of(colours(tmp_path, 21))
    batches = loader.stream([BatchSpec("images", 8, 7, first, 1) for first in range(0, 63, 7)])
    items = torch.cat(list(batches))[:, 0, 0].amin((1, 2)).int() // 4
    epochs = items.view(3, 21).tolist()
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_half_of_the_items_are_mirrored(tmp_path: Path) -> None:
    loader = loader_of(colours(tmp_path, 5))
    items = next(loader.stream([BatchSpec("images", 8, 400, 0, 1)]))[:, 0]
    mirrored = int((items[:, 0, 0, 0] < items[:, 0, 7, 0]).sum())
    assert 160 < mirrored < 240


@pytest.mark.parametrize("damage", ["zero bytes", "text", "truncated", "gone"])
def test_a_broken_file_is_replaced_listed_and_counted(tmp_path: Path, damage: str) -> None:
    """The next whole file of the epoch's order replaces it; all other items stay what they were."""
    root = colours(tmp_path, 6)
    whole = next(loader_of(root).stream([BatchSpec("images", 8, 12, 0, 1)]))
    loader = loader_of(root)  # it has listed the files before they break
    names = images_of(root).names
    victims = [int(index) for index in epoch_order(5, "images", 6, range(6))[2:4]]
    for index in victims:
        path = root / "images" / names[index]
        data = path.read_bytes()
        damaged = {"zero bytes": b"", "text": b"I am no image", "truncated": data[:40], "gone": None}[damage]
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
    made = next(loader.stream([BatchSpec("images", 8, 12, 0, 1)]))
    takes = epoch_order(5, "images", 6, range(12)).reshape(2, 6)
    wanted = []
    for epoch in takes.tolist():
        for place in range(6):
            turns = epoch[place:] + epoch[:place]
            stand_in = next(index for index in turns if index not in victims)
            wanted.append(int(Path(names[stand_in]).stem))
    assert (made[:, 0, 0].amin((1, 2)).int() // 4).tolist() == wanted
    kept = np.flatnonzero(~np.isin(takes, victims))
    assert torch.equal(made[kept], whole[kept])
    report = loader.report()
    assert report["skipped"] >= 4
    assert sorted(row["file"] for row in report["broken"]) == sorted(str(root / "images" / names[i]) for i in victims)
    assert all(row["reason"] for row in report["broken"])


def test_an_item_is_its_file_decoded_with_its_numbers(files: Path) -> None:
    source = images_of(files)
    batch = next(loader_of(files).stream([BatchSpec("images", 32, 3, 9, 1)]))
    for item, index, numbers in zip(
        batch,
        epoch_order(5, "images", len(source), range(9, 12)),
        item_uniforms(5, "images", range(9, 12)),
        strict=True,
    ):
        assert np.array_equal(item.numpy(), decode(source, int(index), 32, 1, None, numbers))


def test_the_report_tells_of_files_and_rates(files: Path) -> None:
    loader = loader_of(files)
    list(loader.stream(PLAN))
    report = loader.report()
    assert report["images"]["files"] == 12
    assert report["images"]["made"] == 14
    assert report["clips"]["made"] == 8
    assert report["clips"]["per_second_and_worker"] > 0
    assert report["broken"] == []
    assert report["skipped"] == 0


def test_the_report_is_sentences_for_people(files: Path, tmp_path: Path) -> None:
    loader = loader_of(files)
    list(loader.stream(PLAN))
    images, clips, waited = loader.describe()
    assert re.fullmatch(r"data: 12 images, read 14 times, [\d,.]+ a second by each process", images)
    assert re.fullmatch(r"data: 6 clips, read 8 times, [\d,.]+ a second by each process", clips)
    assert re.fullmatch(r"data: training waited [\d.]+ s for it", waited)
    (colours(tmp_path, 3) / "images" / "bad.tar").write_bytes(b"x" * 2000)
    assert loader_of(tmp_path).describe()[-1].startswith(f"skipped {tmp_path / 'images' / 'bad.tar'}: ")


def test_damaged_shards_are_in_the_report(tmp_path: Path) -> None:
    (colours(tmp_path, 3) / "images" / "bad.tar").write_bytes(b"x" * 2000)
    assert [Path(row["file"]).name for row in loader_of(tmp_path).report()["broken"]] == ["bad.tar"]


@pytest.mark.parametrize(("workers", "fps"), [(-1, None), (0, 0.0), (0, float("inf")), (0, float("nan"))])
def test_impossible_settings_are_refused(files: Path, workers: int, fps: float | None) -> None:
    with pytest.raises(TrainingError, match="cannot be decoded by"):
        loader_of(files, workers=workers, fps=fps)


def test_a_kind_without_files_is_refused(files: Path) -> None:
    loader = FileLoader(images_of(files), None, CPU, 0)
    with pytest.raises(TrainingError, match="The data holds no clips, only images"):
        loader.check(PLAN[1])
    with pytest.raises(TrainingError, match="The data holds no clips, only images"):
        list(loader.stream(PLAN))


def test_built_sets_go_to_memory(data: Path) -> None:
    loader = open_loader(data, CPU, 0)
    assert isinstance(loader, DeviceLoader)
    assert loader.report() == {"photos": [12], "clips": [12]}
