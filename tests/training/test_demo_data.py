"""Sets on disk, the pictures they are made of, and what is said of broken ones."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data.shards import SetInfo, open_set, shard_path, write_info, write_shard
from training.demo_data import held_out, packages, photographs, procgen, vizdoom
from training.demo_data.demo import DEMO, Job, SetPlan, build_demo, run_job, scaled
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
        (lambda folder: (folder / "set.json").unlink(), "is not a data set"),
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
    assert photographs.place_on_colour(Image.new("RGBA", (width, height), (9, 9, 9, 255)), 64, random).shape == (
        64,
        64,
        3,
    )


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(TrainingError, match=r"broken\.jpg"):
        photographs.crops([broken], [], [], 64, 1, np.random.default_rng(0))
    with pytest.raises(TrainingError, match="no pictures"):
        photographs.crops([], [], [], 64, 1, np.random.default_rng(0))


@given(width=st.integers(20, 700), height=st.integers(20, 700), size=st.sampled_from([64, 300, 400]))
def test_crops_keep_the_shape_of_what_they_show(width: int, height: int, size: int) -> None:
    """A disc in the middle of a large picture stays round, whatever the size of the crop."""
    picture = Image.new("RGB", (width + 700, height + 700))
    random = np.random.default_rng(width)
    ramp = np.indices((picture.height, picture.width)).transpose(1, 2, 0) / 8  # grows alike in both directions
    picture = Image.fromarray(np.concatenate([ramp, ramp[..., :1]], axis=2).astype(np.uint8))
    crop = photographs.random_crop(picture, size, random).astype(float)
    down, across = crop[-8:, :, 0].mean() - crop[:8, :, 0].mean(), crop[:, -8:, 1].mean() - crop[:, :8, 1].mean()
    assert abs(down - across) < 3


def test_the_lists_of_another_release_are_fetched_again_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def run(command: list[str], folder: Path) -> None:
        done.append(next(word for word in command if word in ("update", "download", "dpkg")))
        if len(done) == 1:
            raise TrainingError("There is no network.")
        (folder / "files").mkdir() if done[-1] == "dpkg" else (folder / "package.deb").touch()

    monkeypatch.setattr(packages, "_run", run)
    with pytest.raises(TrainingError, match="no network"):
        packages.debian_package("package", tmp_path, "trixie")
    assert packages.debian_package("package", tmp_path, "trixie").is_dir()
    assert done == ["update", "update", "download", "dpkg"]


def small_cache(cache: Path) -> dict[str, int]:
    """A cache with one small picture for every package; returns how many pictures of each sort it holds."""
    places = {
        "mate-backgrounds": "usr/share/backgrounds/mate/nature/Flower.jpg",
        "plasma-workspace-wallpapers": "usr/share/wallpapers/Autumn/contents/images/2560x1600.jpg",
        "lomiri-wallpapers-16.04": "usr/share/backgrounds/Bridge.jpg",
        "lomiri-wallpapers-20.04": "usr/share/backgrounds/Kleiber.jpg",
        "opencv-doc": "usr/share/doc/opencv-doc/examples/data/fruits.jpg",
        "tuxpaint-stamps-default": "usr/share/tuxpaint/stamps/animals/birds/owl.png",
    }
    for package, (folder, names) in photographs.SAMPLES.items():
        places[package] = f"{folder}/{names[0].replace('*', 'rocks')}.png"
    for seed, (package, place) in enumerate(places.items()):
        path = cache / "debian" / package / place
        path.parent.mkdir(parents=True)
        picture(400, 300, seed).convert("RGBA" if "stamps" in package else "RGB").save(path)
    archive = cache / "debian/ufoai-textures/usr/share/games/ufoai/base/0textures.pk3"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        for name, side in (("rock1", 512), ("rock1_nm", 512), ("rock2", 256), ("logo", 512)):
            buffer = io.BytesIO()
            picture(side, side).save(buffer, "PNG")
            file.writestr(f"textures/tex_nature/{name}.png", buffer.getvalue())
    return {"scenes": len(places) - 1, "textures": 1, "stamps": 1}  # no maps of surfaces, small or other pictures


def test_crops_are_made_from_a_cache_of_packages(tmp_path: Path) -> None:
    """The whole path of one set: packages on disk, jobs, shards, a second build that changes nothing."""
    cache = tmp_path / "cache"
    held = small_cache(cache)
    plan = SetPlan("train/photographs-256", "crops", 1, 32, 2, 8)
    build_demo(tmp_path / "data", cache, [plan], workers=1)
    built = open_set(tmp_path / "data" / plan.name)
    assert len(built) == held["scenes"] * 8 + held["textures"] * 2 + held["stamps"]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.npy")}
    shard_path(tmp_path / "data" / plan.name, 1).unlink()
    build_demo(tmp_path / "data", cache, [plan], workers=1)
    again = open_set(tmp_path / "data" / plan.name)
    assert np.array_equal(built.pixels().numpy(), again.pixels().numpy())
    kept = shard_path(tmp_path / "data" / plan.name, 0)
    assert kept.stat().st_mtime_ns == stamps[kept]


def test_a_part_of_a_set_is_not_trained_on(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    small_cache(cache)
    plan = SetPlan("train/photographs-256", "crops", 1, 32, 2, 8)
    build_demo(tmp_path / "data", cache, [plan], workers=1)
    shard_path(tmp_path / "data" / plan.name, 1).unlink()
    for path in cache.rglob("*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(TrainingError, match=r"\.jpg"):
        build_demo(tmp_path / "data", cache, [plan], workers=1)
    with pytest.raises(TrainingError, match="is not a data set"):
        open_set(tmp_path / "data" / plan.name)


@pytest.mark.parametrize("whole", [True, False])
def test_shards_of_a_trial_are_no_part_of_the_whole_set(tmp_path: Path, whole: bool) -> None:
    """A trial that was stopped is told from the whole set as one that ended; a set of the same scale goes on."""
    cache = tmp_path / "cache"
    small_cache(cache)
    plan = SetPlan("train/photographs-256", "crops", 1, 32, 2, 8)
    trial = scaled([plan], 0.25)
    build_demo(tmp_path / "data", cache, trial, workers=1)
    folder = tmp_path / "data" / plan.name
    if not whole:
        shard_path(folder, 1).unlink()
        (folder / "set.json").unlink()
    with pytest.raises(TrainingError, match=r"another --scale: 2 clips a shard, or crops a photograph, not 8\."):
        build_demo(tmp_path / "data", cache, [plan], workers=1)
    assert open_set(folder) if whole else not (folder / "set.json").exists()
    build_demo(tmp_path / "data", cache, trial, workers=1)
    assert len(open_set(folder).shards) == 2


def test_large_crops_come_from_large_photographs(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    small_cache(cache)
    path = cache / "debian/mate-backgrounds/usr/share/backgrounds/mate/nature/Large.jpg"
    picture(1200, 800).save(path)
    assert photographs.large_scenes(cache) == [path]
    job = Job(SetPlan("train/photographs-384", "large", 1, 384, 1, 3), 0, tmp_path / "data", cache)
    write_info(tmp_path / "data" / job.plan.name, SetInfo("photographs-384", 1, 384, 384, (), "cut"))
    run_job(job)
    assert len(open_set(tmp_path / "data" / job.plan.name)) == 3


def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "0textures.pk3"
    archive.write_bytes(b"PK no archive")
    with pytest.raises(TrainingError, match=r"0textures\.pk3 is not a readable archive"):
        packages.unzipped(archive)
    assert not archive.with_suffix(".files").exists()


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
    job = Job(SetPlan("held-out/photographs-128", "natural", 1, 32, 1, 0), 0, tmp_path / "data", tmp_path)
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
    clips, labels = held_out.camera_clips([path], 32, 5)
    assert clips.shape == (4, 5, 32, 32, 3)
    assert labels == [0] * 4
    levels = clips.astype(int).mean(axis=(2, 3, 4))
    assert np.allclose(levels.flatten(), np.arange(20) * 10, atol=4)
    with pytest.raises(TrainingError, match="fewer than 40"):
        held_out.camera_clips([path], 32, 40)
    path.write_bytes(b"no recording")
    with pytest.raises(TrainingError, match="is not a readable recording"):
        held_out.camera_clips([path], 32, 5)


@given(step=st.sampled_from([1, 2, 4]), value=st.integers(0, 255))
def test_shrinking_averages(step: int, value: int) -> None:
    flat = np.full((8 * step, 8 * step, 3), value, np.uint8)
    assert np.array_equal(procgen.shrink(flat, 8), flat[:8, :8])
    half = flat.copy()
    half[:, ::2] = 0
    if step > 1:
        assert np.allclose(procgen.shrink(half, 8), value / 2, atol=0.51)


class StandInGame:
    """Environments that show level, column and step as colours; an episode lasts until it is ended."""

    def __init__(self, num: int, start_level: int, **settings: object) -> None:
        self.level, self.step, self.num = start_level, 0, num

    def act(self, actions: np.ndarray) -> None:
        ended = actions[0] < 0
        self.level, self.step = (self.level + 1, 0) if ended else (self.level, self.step + 1)

    def get_info(self) -> list[dict[str, object]]:
        rgb = np.zeros((512, 512, 3), np.uint8)
        rgb[..., 0], rgb[..., 1], rgb[..., 2] = self.level, np.arange(512) // 4, self.step
        return [{"rgb": rgb, "level_seed": self.level}] * self.num


@pytest.mark.parametrize(("game", "pace"), [("coinrun", 2), ("maze", 6)])
def test_play_by_class_shows_whole_screens_of_a_level_each(
    monkeypatch: pytest.MonkeyPatch, game: str, pace: int
) -> None:
    monkeypatch.setitem(sys.modules, "procgen.env", SimpleNamespace(ProcgenGym3Env=StandInGame))
    monkeypatch.setitem(sys.modules, "procgen", SimpleNamespace())
    clips = procgen.record(game, 16, 3, 12, (5, 100), 0, None, by_class=True).astype(int)
    assert clips.shape == (12, 3, 16, 16, 3)
    levels = clips[..., 0].reshape(12, -1)
    assert (levels == levels[:, :1]).all()
    assert sorted(levels[:, 0]) == [level for level in (6, 7, 8) for _ in range(procgen.ENVIRONMENTS)]
    assert np.array_equal(clips[0, 0, 0, :, 1], clips[5, 2, 3, :, 1])
    assert clips[0, 0, 0, -1, 1] - clips[0, 0, 0, 0, 1] == 120  # from the first columns to the last
    assert (np.diff(clips[:, :, 0, 0, 2], axis=1) == pace).all()


def test_held_out_levels_lie_above_the_trained_ones() -> None:
    first, count = procgen.TRAIN_LEVELS
    assert procgen.HELD_OUT_LEVELS[0] >= first + count


def test_walks_are_kept_only_where_the_lit_picture_moves() -> None:
    still = np.full((3, 8, 8, 3), 100, np.uint8)
    moving = still + np.arange(3, dtype=np.uint8)[:, None, None, None] * 10
    assert vizdoom.moves(moving)
    assert not vizdoom.moves(still)
    assert not vizdoom.moves(moving - 100)  # too dark


def test_held_out_maps_are_not_walked_in_training() -> None:
    assert set(vizdoom.HELD_OUT_MAPS) < set(vizdoom.MAPS)
    assert set(vizdoom.TRAIN_MAPS) == set(vizdoom.MAPS) - set(vizdoom.HELD_OUT_MAPS)


def test_the_first_held_out_sets_keep_their_seeds() -> None:
    """Seeds count from places: a set that moves would be recorded anew and scores could not be compared."""
    names = [plan.name for plan in DEMO]
    assert names[:6] == [
        "held-out/photographs-128",
        "held-out/photographs-256",
        "held-out/camera-128",
        "held-out/procgen-128",
        "train/photographs-256",
        "train/procgen-128",
    ]


def test_every_set_keeps_at_least_one_item_when_scaled_down() -> None:
    assert all(plan.items >= 1 for plan in scaled(DEMO, 1e-6))
    with pytest.raises(TrainingError, match="positive"):
        scaled(DEMO, 0)
