"""Measures the bundles that tables show on held-out sets, and gathers everything into one file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from model import load_bundle
from training.data import open_set
from training.data.shards import replace_file
from training.devices import device_of
from training.errors import TrainingError
from training.evaluation.evaluate import score
from training.evaluation.suite import Bench, NetworkPaths
from training.reproduction.process_pool import share
from training.reproduction.run import FORMAT, RECORD_FILE, read_record

AT_ONCE = 16  # items


@dataclass(frozen=True)
class HeldOut:
    """A set that is measured on.

    Args:
        name: in figures.
        title: in tables.
        folder: below the data folder; its pixels are reduced by averaging blocks of `times` by `times`.
        kind: of its items.
        limit: at most so many items, evenly spread; None for all.
    """

    name: str
    title: str
    folder: str
    kind: str
    times: int = 1
    limit: int | None = None


HELD_OUT = (
    HeldOut("photographs-64", "photographs 64", "held-out/photographs-128", "images", 2),
    HeldOut("photographs-128", "photographs 128", "held-out/photographs-128", "images"),
    HeldOut("games-64", "games 64", "held-out/procgen-128", "clips", 2, 64),
    HeldOut("camera-64", "camera 64", "held-out/camera-128", "clips", 2, 64),
)


class Reduced:
    """Items of a held-out set, held in memory; the `Items` of an evaluation.

    Args:
        held: which set.
        data: folder of the data.

    Raises:
        TrainingError: the set is missing or damaged.
    """

    def __init__(self, held: HeldOut, data: Path) -> None:
        pixels = open_set(data / held.folder).pixels()
        if held.limit is not None and held.limit < len(pixels):
            pixels = pixels[torch.linspace(0, len(pixels) - 1, held.limit).round().long()]
        if held.times > 1:
            blocks = pixels.unflatten(3, (-1, held.times)).unflatten(2, (-1, held.times))
            half = held.times**2 // 2
            pixels = ((blocks.sum((3, 5), dtype=torch.int32) + half) // held.times**2).to(torch.uint8)
        self.title, self.name = held.title, held.name
        self.frames, self.side = int(pixels.shape[1]), int(pixels.shape[2])
        self.broken: list[str] = []
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        for part in self._pixels.split(AT_ONCE):
            yield part.numpy()


@dataclass(frozen=True)
class Measurement:
    """One bundle to measure.

    Args:
        run: folder of a run that is done.
        stage: whose bundle.
        data: folder of the data.
        networks: folder of `omnitok data networks`.
        device: by name; CUDA where there is one if None.
    """

    run: Path
    stage: str
    data: Path
    networks: Path
    device: str | None = None

    @property
    def path(self) -> Path:
        """Of the figures."""
        return self.run / f"figures-{self.stage}.json"


def measurements(out: Path, data: Path, networks: Path, device: str | None = None) -> list[Measurement]:
    """The bundles that tables show, of all runs below `out` that are done.

    Raises:
        TrainingError: there are none.
    """
    found = []
    for path in sorted(out.glob(f"*/{RECORD_FILE}")):
        shown = read_record(path)["shown"]
        found += [Measurement(path.parent, stage, data, networks, device) for stage in shown]
    if not found:
        raise TrainingError(f"{out} holds no run that is done: `omnitok reproduce train` comes first")
    return found


def measure_all(jobs: Sequence[Measurement], parallel: int, console: Console) -> None:
    """Measure the bundles that have no figures yet.

    Args:
        jobs: what to measure.
        parallel: processes that share the device.
        console: is told of each.

    Raises:
        TrainingError: a set or a network is missing, or a bundle is damaged.
    """
    waiting = [job for job in jobs if not job.path.is_file()]
    for job, found in share(measure, waiting, parallel):
        told = ", ".join(f"{name} {figures['PSNR']:.2f} dB" for name, figures in found["sets"].items())
        console.print(f"{job.run.name} {job.stage}: {told}", highlight=False)


_benches: dict[tuple[Path, Path, str], tuple[Bench, dict[str, Reduced]]] = {}  # of this process


def measure(job: Measurement) -> dict[str, Any]:
    """Figures of one bundle on the sets of the kinds that its run trained on; written beside the bundle."""
    device = device_of(job.device)
    key = job.data, job.networks, str(device)
    if key not in _benches:
        bench = Bench(NetworkPaths(job.networks), device)
        _benches[key] = bench, {held.name: Reduced(held, job.data) for held in HELD_OUT}
    bench, sets = _benches[key]
    record = read_record(job.run / RECORD_FILE)
    number = list(record["stages"]).index(job.stage) + 1
    tokenizer = load_bundle(job.run / f"{number}-{job.stage}" / "bundle", device).tokenizer
    kinds = {kind for stage in record["recipe"]["stages"] for kind in ("images", "clips") if stage[kind]}
    found: dict[str, dict[str, Any]] = {}
    for held in HELD_OUT:
        if held.kind not in kinds:
            continue
        scores, _, _ = score(tokenizer, sets[held.name], bench)
        figures: dict[str, Any] = {"items": scores.items, "PSNR": scores.psnr, "SSIM": scores.ssim}
        figures |= {figure.name: figure.value for figure in scores.figures}
        if "usage" in scores.codes:
            figures |= {"usage": scores.codes["usage"], "perplexity": scores.codes["perplexity"]}
        figures["half splits"] = {figure.name: figure.half_split for figure in scores.figures}
        found[held.name] = figures
    result = {"sets": found, "preprocessing": bench.words()}
    replace_file(job.path, json.dumps(result).encode() + b"\n")
    return result


def gather(out: Path) -> dict[str, Any]:
    """Records of all runs with the figures of their bundles: everything that the report is made from."""
    runs, words = [], []
    for path in sorted(out.glob(f"*/{RECORD_FILE}")):
        record = read_record(path)
        record.pop("format")
        record["figures"] = {}
        for stage in record["shown"]:
            file = path.parent / f"figures-{stage}.json"
            if file.is_file():
                found = json.loads(file.read_text(encoding="utf-8"))
                record["figures"][stage], words = found["sets"], found["preprocessing"]
        runs.append(record)
    return {"format": FORMAT, "preprocessing": words, "runs": runs}
