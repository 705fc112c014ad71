"""Sets on disk, the pictures they are made of, and what is said of broken ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data import held_out, open_set, photographs, procgen
from training.data.demo import DEMO, Job, SetPlan, build_demo, run_job, scaled
from training.data.sets import SetInfo, shard_path, write_info, write_shard
from training.errors import TrainingError


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(values).resize((width, height))


def small_set(folder: Path, classes: tuple[str, ...] = ("a", "b")) -> Path:
    write_info(folder, SetInfo(folder.name, 2, 8, 8, classes, "drawn"))
    write_shard(folder, 0, np.zeros((3, 2, 8, 8, 3), np.uint8), [0, 1, 0] if classes else ())
    return folder


def test_a_set_comes_back_in_order(tmp_path: Path) -> None:
    write_info(tmp_path, SetInfo("s", 1, 4, 4, ("a", "b", "c"), "drawn"))
    shards = [np.full((2, 1, 4, 4, 3), value, np.uint8) for value in (7, 8)]
    for index, shard in enumerate(shards):
        write_shard(tmp_path, index, shard, [index, 2])
    pixels = open_set(tmp_path)
    assert pixels.labels == (0, 2, 1, 2)
    assert np.array_equal(pixels.pixels().numpy(), np.concatenate(shards))
    assert not list(tmp_path.glob(".*"))


def _cut(folder: Path) -> None:
    path = shard_path(folder, 0)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "set.json").unlink(), "no data set"),
        (lambda folder: (folder / "set.json").write_text("{"), "does not describe"),
        (lambda folder: (folder / "set.json").write_text('{"name": "x", "colour": 1}'), "unknown or missing"),
        (lambda folder: shard_path(folder, 0).unlink(), "no shards"),
        (lambda folder: shard_path(folder, 0).write_bytes(b""), "damaged"),
        (_cut, "damaged"),
        (lambda folder: write_shard(folder, 0, np.zeros((1, 2, 4, 8, 3), np.uint8)), "holds uint8"),
        (lambda folder: np.save(shard_path(folder, 0), np.zeros((3, 2, 8, 8, 3), np.float32)), "holds float32"),
        (lambda folder: (folder / "00000.labels.json").unlink(), "missing or damaged"),
        (lambda folder: (folder / "00000.labels.json").write_text("[0, 1]"), "3 labels"),
        (lambda folder: (folder / "00000.labels.json").write_text("[0, 1, 2]"), "3 labels"),
    ],
)
def test_a_broken_set_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = small_set(tmp_path / "set")
    damage(folder)
    with pytest.raises(TrainingError, match=message) as caught:
        open_set(folder)
    assert str(folder) in str(caught.value)


@given(width=st.integers(20, 700), height=st.integers(20, 700), seed=st.integers(0, 2**31))
def test_crops_have_their_size_whatever_the_picture(width: int, height: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    flat = Image.new("RGB", (width, height), (10, 200, 30))
    crop = photographs.random_crop(flat, 64, random)
    assert crop.shape == (64, 64, 3)
    assert (crop == (10, 200, 30)).all()  # nothing from outside the picture
    assert photographs.placed(Image.new("RGBA", (width, height), (9, 9, 9, 255)), 64, random).shape == (64, 64, 3)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(TrainingError, match=r"broken\.jpg"):
        photographs.crops([broken], [], 64, 1, np.random.default_rng(0))
    with pytest.raises(TrainingError, match="no pictures"):
        photographs.crops([], [], 64, 1, np.random.default_rng(0))


def test_crops_are_made_from_a_cache_of_packages(tmp_path: Path) -> None:
    """The whole path of one set: packages on disk, jobs, shards, a second build that changes nothing."""
    cache = tmp_path / "cache"
    places = {
        "mate-backgrounds": "usr/share/backgrounds/mate/nature/Flower.jpg",
        "plasma-workspace-wallpapers": "usr/share/wallpapers/Autumn/contents/images/2560x1600.jpg",
        "lomiri-wallpapers-16.04": "usr/share/backgrounds/Bridge.jpg",
        "lomiri-wallpapers-20.04": "usr/share/backgrounds/Kleiber.jpg",
        "opencv-doc": "usr/share/doc/opencv-doc/examples/data/fruits.jpg",
        "tuxpaint-stamps-default": "usr/share/tuxpaint/stamps/animals/birds/owl.png",
    }
    for seed, (package, place) in enumerate(places.items()):
        path = cache / "debian" / package / place
        path.parent.mkdir(parents=True)
        picture(400, 300, seed).convert("RGBA" if path.suffix == ".png" else "RGB").save(path)
    plan = SetPlan("train/photographs-256", "crops", 1, 32, 2, 3)
    build_demo(tmp_path / "data", cache, [plan], workers=1)
    built = open_set(tmp_path / "data" / plan.name)
    assert len(built) == 5 * 3 + 1
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.npy")}
    shard_path(tmp_path / "data" / plan.name, 1).unlink()
    build_demo(tmp_path / "data", cache, [plan], workers=1)
    again = open_set(tmp_path / "data" / plan.name)
    assert np.array_equal(built.pixels().numpy(), again.pixels().numpy())
    kept = shard_path(tmp_path / "data" / plan.name, 0)
    assert kept.stat().st_mtime_ns == stamps[kept]


def test_held_out_photographs_are_carved_from_resource_files(tmp_path: Path) -> None:
    folder = tmp_path / "debian/gcompris-qt-data/usr/share/gcompris-qt/rcc"
    folder.mkdir(parents=True)
    for number, name in enumerate(held_out.PHOTOGRAPHS):
        parts = [b"qres junk RIFF junk"]
        for image in (picture(640, 480, number), picture(100, 100), picture(640, 480).convert("RGBA")):
            if image.mode == "RGBA":
                image.putalpha(100)
            buffer = io.BytesIO()
            image.save(buffer, "WEBP")
            parts.append(buffer.getvalue())
        (folder / f"{name}.rcc").write_bytes(b"\0\0\x10".join(parts))
    job = Job(SetPlan("held-out/photographs-128", "natural", 1, 32, 1, 0), 0, tmp_path / "data", tmp_path, None)
    write_info(tmp_path / "data" / job.plan.name, SetInfo("photographs-128", 1, 32, 32, (), "carved"))
    run_job(job)
    assert len(open_set(tmp_path / "data" / job.plan.name)) == len(held_out.PHOTOGRAPHS)  # neither small nor clear ones


def test_recordings_become_windows_of_consecutive_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(0, 230, 10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clips, owners = held_out.camera_clips([path], 32, 5)
    assert clips.shape == (4, 5, 32, 32, 3)
    assert owners == [0] * 4
    levels = clips.astype(int).mean(axis=(2, 3, 4))
    assert np.allclose(levels.flatten(), np.arange(20) * 10, atol=4)
    with pytest.raises(TrainingError, match="fewer than 40"):
        held_out.camera_clips([path], 32, 40)
    path.write_bytes(b"no recording")
    with pytest.raises(TrainingError, match="no readable recording"):
        held_out.camera_clips([path], 32, 5)


@given(step=st.sampled_from([1, 2, 4]), value=st.integers(0, 255))
def test_shrinking_averages(step: int, value: int) -> None:
    flat = np.full((8 * step, 8 * step, 3), value, np.uint8)
    assert np.array_equal(procgen.shrink(flat, 8), flat[:8, :8])
    half = flat.copy()
    half[:, ::2] = 0
    if step > 1:
        assert np.allclose(procgen.shrink(half, 8), value / 2, atol=0.51)


def test_held_out_levels_lie_above_the_trained_ones() -> None:
    first, count = procgen.TRAIN_LEVELS
    assert procgen.HELD_OUT_LEVELS[0] >= first + count


def test_every_set_keeps_at_least_one_item_when_scaled_down() -> None:
    assert all(plan.items >= 1 for plan in scaled(DEMO, 1e-6))
    with pytest.raises(TrainingError, match="positive"):
        scaled(DEMO, 0)
