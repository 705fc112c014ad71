"""Evaluation of reconstructions: PSNR and SSIM, use of codes or latents, and network metrics."""

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

from model.bundle import load_bundle
from model.metrics.psnr import psnr
from model.metrics.ssim import ssim
from model.tokenizer.config import VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from training.atomic_write import replace_file
from training.card import code_version, machine_name
from training.devices import resolve_device
from training.errors import TrainingError
from training.evaluation.codebook import CodebookUse
from training.evaluation.datasets import Items, items_of
from training.evaluation.latents import LatentStatistics
from training.evaluation.report import figures_markdown
from training.evaluation.set_metrics import Figure
from training.evaluation.suite import Bench, NetworkPaths
from training.pictures import contact_sheet, write

SHOWN = 8  # pictures in a row of a sheet
PACKAGES = ("torch", "numpy", "pillow", "av")


@dataclass(frozen=True)
class Scores:
    """Scores of one set; PSNR and SSIM are means over items, an item's being the mean over its frames.

    Args:
        title: of the set.
        items, frames: how many were compared.
        psnr: decibels.
        ssim: at most 1.
        codes: `CodebookUse.figures` or `LatentStatistics.figures`.
        figures: of networks.
        broken: files that could not be read.
    """

    title: str
    items: int
    frames: int
    psnr: float
    ssim: float
    codes: dict[str, Any]
    figures: tuple[Figure, ...]
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        is_vq: whether it has a codebook.
        sets: scores of each set.
        codes: of all sets together.
        missing: figures that were left out, with the file that they need.
    """

    is_vq: bool
    sets: tuple[Scores, ...]
    codes: dict[str, Any]
    missing: dict[str, Path]


@torch.inference_mode()
def reconstruct(tokenizer: OmniTokenizer, pixels: torch.Tensor, codes: CodebookUse | LatentStatistics) -> torch.Tensor:
    """Encode and decode; a VAE decodes the mean of its latents.

    Args:
        tokenizer: in evaluation mode.
        pixels: uint8 (N, T, H, W, 3) on its device.
        codes: takes in the codes on the way.

    Returns:
        uint8 of the shape of `pixels`.
    """
    frames, height, width = pixels.shape[1:4]
    if isinstance(codes, CodebookUse):
        latents = tokenizer.encode(pixels)
        codes.update(latents)
    else:
        latents, logvar = tokenizer.encode_moments(pixels)
        codes.update(latents, logvar)
    return tokenizer.decode(latents, (frames, height, width))


def codes_of(tokenizer: OmniTokenizer) -> CodebookUse | LatentStatistics:
    """An empty record of what the tokenizer's head gives."""
    head = tokenizer.config.head
    return CodebookUse(head.codes) if isinstance(head, VQConfig) else LatentStatistics(head.dim)


@torch.inference_mode()
def score(
    tokenizer: OmniTokenizer, items: Items, bench: Bench
) -> tuple[Scores, CodebookUse | LatentStatistics, Image.Image]:
    """Scores of one set, its codes, and a picture: originals over reconstructions.

    Args:
        tokenizer: in evaluation mode.
        items: the set.
        bench: the networks that judge.

    Raises:
        TrainingError: none of the items could be read.
    """
    device = next(tokenizer.parameters()).device
    judges, codes = bench.judges(items.frames), codes_of(tokenizer)
    decibels: list[float] = []
    similarity: list[float] = []
    sheet = _Sheet(len(items), items.frames)
    for batch in items.batches():
        pixels = torch.from_numpy(batch).to(device)
        restored = reconstruct(tokenizer, pixels, codes)
        copies = restored.cpu().numpy()
        decibels += psnr(batch, copies).mean(axis=1).tolist()
        similarity += ssim(pixels, restored).mean(dim=1).tolist()
        for judge in judges:
            judge.update(pixels, restored)
        sheet.update(batch, copies)
    count = len(decibels)
    if not count:
        raise TrainingError(f"none of the {len(items)} {items.title} could be read; the first is {items.broken[0]}")
    found = Scores(
        title=items.title,
        items=count,
        frames=count * items.frames,
        psnr=float(np.mean(decibels)),
        ssim=float(np.mean(similarity)),
        codes=codes.figures(),
        figures=tuple(figure for judge in judges for figure in judge.figures()),
        broken=tuple(items.broken),
    )
    return found, codes, sheet.picture()


class _Sheet:
    """Keeps a few items on the way: images spread over the set, or a clip in the middle of it.

    The first item is kept in any case, for where files cannot be read there are fewer than were listed.
    """

    def __init__(self, count: int, frames: int) -> None:
        places = [count // 2] if frames > 1 else np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)
        self.places, self.frames, self.seen = set(map(int, places)), frames, 0
        self.rows: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])

    def update(self, originals: NDArray[np.uint8], restored: NDArray[np.uint8]) -> None:
        for pair in zip(originals, restored, strict=True):
            if self.seen in self.places or not self.seen:
                for row, item in zip(self.rows, pair, strict=True):
                    if self.frames > 1:
                        row.clear()
                    steps = np.linspace(0, self.frames - 1, min(SHOWN, self.frames)).round().astype(int)
                    row += list(item[steps])
            self.seen += 1

    def picture(self) -> Image.Image:
        return contact_sheet(*(np.stack(row) for row in self.rows))


def evaluate(
    tokenizer: OmniTokenizer, sets: Sequence[Items], bench: Bench
) -> tuple[Evaluation, dict[str, Image.Image]]:
    """Scores of every set, and of all of their codes together; pictures by the sets' names."""
    scores, pictures, together = [], {}, codes_of(tokenizer)
    for items in sets:
        found, codes, picture = score(tokenizer, items, bench)
        scores.append(found)
        together.add(codes)  # type: ignore[arg-type]  # of one tokenizer, so of one kind
        pictures[items.name] = picture
    return Evaluation(tokenizer.config.is_vq, tuple(scores), together.figures(), bench.missing), pictures


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
    """Score a bundle; write `evaluation.json`, `figures.md` for its card, and pictures of every set.

    Args:
        bundle: folder of the bundle.
        data: as for `items_of`.
        out: folder of the results.
        device: where to run.
        networks: files of the judging networks.
        side, frames, limit: as for `items_of`.

    Raises:
        BundleError: the bundle cannot be loaded.
        TrainingError: there is no such device, nothing to evaluate on, or a network's file is wrong.
    """
    where = resolve_device(device)
    loaded = load_bundle(bundle, where)
    sets = items_of(data, side, frames, limit)
    bench = Bench(networks, where)
    found, pictures = evaluate(loaded.tokenizer, sets, bench)
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        write(picture, out / f"{name}.png")
    record = {
        "bundle": loaded.hash,
        "head": "vq" if found.is_vq else "vae",
        "data": str(data),
        "preprocessing": [
            "sets as built; files: centre squares of the shorter side, Lanczos filter, videos from their start at "
            "their own rate, the last frame repeated where they end early",
            "PSNR and SSIM on 8-bit RGB, means over frames, then over items; a VAE decodes the mean of its latents",
            *bench.words(),
        ],
        "networks": {kind: {"file": path.name, "sha256": _digest(path)} for kind, path in bench.files.items()},
        "left out": {figures: str(path) for figures, path in found.missing.items()},
        "versions": {"code": code_version(), "python": platform.python_version(), **_versions()},
        "machine": machine_name(where),
        "results": [asdict(scores) for scores in found.sets],
        "all": found.codes,
    }
    replace_file(out / "evaluation.json", json.dumps(record, indent=2).encode() + b"\n")
    replace_file(out / "figures.md", figures_markdown(found).encode() + b"\n")
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
