"""Evaluation of reconstructions: PSNR and SSIM, statistics of codes, and network metrics."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from media.spread import spread
from model.atomic_write import replace_file
from model.bundle import load_bundle
from model.metrics.psnr import psnr
from model.metrics.ssim import ssim
from model.tokenizer.tokenizer import OmniTokenizer
from training.card import code_version, machine_name
from training.devices import resolve_device
from training.errors import TrainingError
from training.evaluation.code_statistics import CodebookUsage, LatentStatistics, code_statistics
from training.evaluation.datasets import Dataset, open_datasets
from training.evaluation.report import markdown
from training.evaluation.set_metrics import MetricValue
from training.evaluation.suite import MetricSuite, NetworkPaths
from training.pictures import contact_sheet, write_image

COLUMNS = 8  # of a contact sheet
PACKAGES = ("torch", "numpy", "pillow", "av")


@dataclass(frozen=True)
class Scores:
    """Scores of one set; PSNR and SSIM are means over items, an item's being the mean over its frames.

    Args:
        title: of the set.
        items, frames: how many were compared.
        psnr: decibels.
        ssim: at most 1.
        codes: as `CodebookUsage` or `LatentStatistics` computes them.
        metrics: of networks.
        broken: files that could not be read.
    """

    title: str
    items: int
    frames: int
    psnr: float
    ssim: float
    codes: dict[str, Any]
    metrics: tuple[MetricValue, ...]
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        is_vq: whether the bundle has a codebook.
        sets: scores of each set.
        codes: of all sets together.
        missing: metrics that were left out, with the file that they need.
    """

    is_vq: bool
    sets: tuple[Scores, ...]
    codes: dict[str, Any]
    missing: dict[str, Path]


@torch.inference_mode()
def score(
    tokenizer: OmniTokenizer, dataset: Dataset, suite: MetricSuite
) -> tuple[Scores, CodebookUsage | LatentStatistics, Image.Image]:
    """Return the scores of one set, its codes, and a contact sheet: originals over reconstructions.

    A VAE decodes the mean of its latents.

    Args:
        tokenizer: in evaluation mode.
        dataset: the set.
        suite: the metric networks.

    Raises:
        TrainingError: none of the items could be read.
    """
    device = next(tokenizer.parameters()).device
    metrics, codes = suite.metrics(dataset.frames), code_statistics(tokenizer)
    decibels: list[float] = []
    similarity: list[float] = []
    sheet = _Sheet(len(dataset), dataset.frames)
    for batch in dataset.batches():
        pixels = torch.from_numpy(batch).to(device)
        restored = tokenizer.decode(codes.encode(tokenizer, pixels), (dataset.frames, dataset.side, dataset.side))
        copies = restored.cpu().numpy()
        decibels += psnr(batch, copies).mean(axis=1).tolist()
        similarity += ssim(pixels, restored).mean(dim=1).tolist()
        for metric in metrics:
            metric.update(pixels, restored)
        sheet.update(batch, copies)
    count = len(decibels)
    if not count:
        raise TrainingError(
            f"None of the {len(dataset)} {dataset.title} could be read; the first is {dataset.broken[0]}."
        )
    scores = Scores(
        title=dataset.title,
        items=count,
        frames=count * dataset.frames,
        psnr=float(np.mean(decibels)),
        ssim=float(np.mean(similarity)),
        codes=codes.compute(),
        metrics=tuple(value for metric in metrics for value in metric.compute()),
        broken=tuple(dataset.broken),
    )
    return scores, codes, contact_sheet(*(np.stack(row) for row in sheet.rows))


class _Sheet:
    """Keeps a few items on the way: images spread over the set, or frames of a clip in the middle of it.

    The first item is kept in any case, for where files cannot be read there are fewer than were listed.
    """

    def __init__(self, count: int, frames: int) -> None:
        self.chosen = {count // 2} if frames > 1 else set(spread(count, COLUMNS))
        self.frames, self.seen = frames, 0
        self.rows: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])

    def update(self, originals: NDArray[np.uint8], restored: NDArray[np.uint8]) -> None:
        for pair in zip(originals, restored, strict=True):
            if self.seen in self.chosen or not self.seen:
                for row, item in zip(self.rows, pair, strict=True):
                    if self.frames > 1:
                        row.clear()
                    row += list(item[spread(self.frames, COLUMNS)])
            self.seen += 1


def evaluate(
    tokenizer: OmniTokenizer, datasets: Sequence[Dataset], suite: MetricSuite
) -> tuple[Evaluation, dict[str, Image.Image]]:
    """Return the scores of every set, and of all of their codes together; contact sheets by the sets' names."""
    scores, sheets, together = [], {}, code_statistics(tokenizer)
    for dataset in datasets:
        found, codes, sheets[dataset.name] = score(tokenizer, dataset, suite)
        scores.append(found)
        together.merge(codes)  # type: ignore[arg-type]  # of one tokenizer, so of one kind
    return Evaluation(tokenizer.config.is_vq, tuple(scores), together.compute(), suite.missing), sheets


def evaluate_bundle(
    bundle: Path,
    data: Path,
    out: Path,
    device: str | None,
    networks: NetworkPaths,
    side: int = 256,
    frames: int = 17,
    limit: int | None = None,
) -> Evaluation:
    """Score a bundle; write `evaluation.json`, `metrics.md` for its card, and a contact sheet of every set.

    Args:
        bundle: folder of the bundle.
        data: as for `open_datasets`.
        out: folder of the results.
        device: by name.
        networks: files of the metric networks.
        side, frames, limit: as for `open_datasets`.

    Raises:
        BundleError: the bundle cannot be loaded.
        TrainingError: there is no such device, nothing to evaluate on, or a network's file is wrong.
    """
    chosen = resolve_device(device)
    loaded = load_bundle(bundle, chosen)
    datasets = open_datasets(data, side, frames, limit)
    suite = MetricSuite(networks, chosen)
    found, sheets = evaluate(loaded.tokenizer, datasets, suite)
    out.mkdir(parents=True, exist_ok=True)
    for name, sheet in sheets.items():
        write_image(sheet, out / f"{name}.png")
    record = {
        "bundle": loaded.hash,
        "head": "vq" if found.is_vq else "vae",
        "data": str(data),
        "preprocessing": [
            "sets as built; files: centre squares of the shorter side, Lanczos filter, videos from their start at "
            "their own rate, the last frame repeated where they end early",
            "PSNR and SSIM on 8-bit RGB, means over frames, then over items; a VAE decodes the mean of its latents",
            *suite.protocols(),
        ],
        "networks": {name: {"file": path.name, "sha256": _digest(path)} for name, path in suite.files.items()},
        "left out": {metrics: str(path) for metrics, path in found.missing.items()},
        "versions": {
            "code": code_version(), "python": platform.python_version(), **{name: _version(name) for name in PACKAGES},
        },
        "machine": machine_name(chosen),
        "results": [asdict(scores) for scores in found.sets],
        "all": found.codes,
    }  # fmt: skip
    replace_file(out / "evaluation.json", json.dumps(record, indent=2).encode() + b"\n")
    replace_file(out / "metrics.md", markdown(found).encode() + b"\n")
    return found


def _version(package: str) -> str | None:
    """Return a package's version, None where it is missing: built sets need no decoder of media."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the files of a folder in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
