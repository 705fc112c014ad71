"""`python -m benchmarks.codecs BUNDLE...`: reconstructions of bundles against JPEG, WebP and AVIF of equal bytes."""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from model.bundle import load_bundle
from model.metrics.psnr import psnr
from model.metrics.ssim import ssim
from model.tokenizer.config import VQConfig
from training.data.shards import open_set
from training.errors import TrainingError
from training.evaluation.sweep import PHOTOGRAPHS
from training.networks.lpips import FeatureDistance, load_vgg_distance
from training.pictures import centre_square

SIDES = (64, 128, 256, 512)
BATCH_PIXELS = 1 << 20  # decoded at once
CODECS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "optimize": True},
    "WebP": {"format": "WEBP", "method": 6},
    "AVIF": {"format": "AVIF", "speed": 6},
}
Pixels = NDArray[np.uint8]
Quality = int


@dataclass(frozen=True)
class Row:
    """The mean over photographs of one side.

    Args:
        side: pixels.
        name: folder of a bundle, or codec.
        mean_bytes: of a picture; a codec's smallest file, where none is as small as the codes; None for latents.
        psnr, ssim, vgg: of the reconstructions; VGG distance None without its network.
        same_psnr: mean bytes at which each codec has the bundle's PSNR, picture by picture.
    """

    side: int
    name: str
    mean_bytes: float | None
    psnr: float
    ssim: float
    vgg: float | None
    same_psnr: dict[str, float] | None = None


def encode(pixels: Pixels, codec: str, quality: Quality) -> bytes:
    """Return a picture, uint8 (H, W, 3), as a file of a codec."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, quality=quality, **CODECS[codec])
    return file.getvalue()


def decode(data: bytes) -> Pixels:
    """Return the pixels of a file, uint8 (H, W, 3)."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def first_quality(good: Callable[[Quality], bool]) -> Quality:
    """Return the smallest quality from 1 to 100 that is good enough, 100 if none is: goodness grows with quality."""
    low, high = 1, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle + 1, high)
    return low


def largest_within(pixels: Pixels, codec: str, budget: float) -> bytes:
    """Return the best file of at most `budget` bytes; the smallest one where none is so small."""
    over = first_quality(lambda quality: len(encode(pixels, codec, quality)) > budget)
    data = encode(pixels, codec, over)
    return data if len(data) <= budget else encode(pixels, codec, max(1, over - 1))


class PictureMetrics:
    """The metrics of pairs of pictures.

    Args:
        network: file of the VGG distance's network, or None.
    """

    def __init__(self, network: Path | None) -> None:
        self.vgg: FeatureDistance | None = load_vgg_distance(network) if network is not None else None

    def means(self, pictures: Pixels, others: Pixels) -> tuple[float, float, float | None]:
        """Return mean PSNR, SSIM and VGG distance of pictures, uint8 (N, H, W, 3)."""
        distance = None
        if self.vgg is not None:
            pairs = zip(_floats(others).split(1), _floats(pictures).split(1), strict=True)
            distance = float(torch.cat([self.vgg(other, picture) for other, picture in pairs]).mean())
        return float(psnr(pictures, others).mean()), float(ssim(pictures, others).mean()), distance


def _floats(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).float() / 255 - 0.5


@torch.inference_mode()
def compare(bundles: Sequence[Path], pictures: Pixels, metrics: PictureMetrics) -> list[Row]:
    """Return the rows of bundles, and those of the codecs at the bytes of the bundles' codes.

    Args:
        bundles: of tokenizers; a code costs log2 of the codebook's size in bits, as no entropy coder is used.
        pictures: uint8 (N, S, S, 3).
        metrics: of the rows.

    Raises:
        TrainingError: no bundle has codes, or their bytes differ.
    """
    side = pictures.shape[1]
    clips = torch.from_numpy(pictures)[:, None]
    budgets, rows = set(), []
    for bundle in bundles:
        tokenizer = load_bundle(bundle).tokenizer
        parts = clips.split(max(1, BATCH_PIXELS // side**2))
        made = torch.cat([tokenizer.reconstruct(part) for part in parts])[:, 0].numpy()
        head, code_bytes = tokenizer.config.head, None
        if isinstance(head, VQConfig):
            code_bytes = (side // tokenizer.config.patch) ** 2 * math.log2(head.codes) / 8
            budgets.add(code_bytes)
        same_psnr = {codec: _mean_bytes_at(pictures, made, codec) for codec in CODECS}
        rows.append(Row(side, bundle.name, code_bytes, *metrics.means(pictures, made), same_psnr))
    if len(budgets) != 1:
        raise TrainingError(
            f"Codecs need one number of bytes a picture, not {sorted(budgets)}: name VQ bundles of one."
        )
    (budget,) = budgets
    for codec in CODECS:
        files = [largest_within(one, codec, budget) for one in pictures]
        shown = np.stack([decode(data) for data in files])
        rows.append(Row(side, codec, float(np.mean([len(data) for data in files])), *metrics.means(pictures, shown)))
    return rows


def _mean_bytes_at(pictures: Pixels, made: Pixels, codec: str) -> float:
    """Return a codec's mean bytes at the PSNR of reconstructions."""
    pairs = zip(pictures, made, strict=True)
    return float(np.mean([_bytes_at(one, codec, float(psnr(one, other))) for one, other in pairs]))


def _bytes_at(picture: Pixels, codec: str, wanted: float) -> int:
    """Return the bytes of the first quality whose PSNR is at least `wanted`."""
    quality = first_quality(lambda quality: float(psnr(picture, decode(encode(picture, codec, quality)))) >= wanted)
    return len(encode(picture, codec, quality))


def show(rows: list[Row]) -> Table:
    """Return the rows as a table."""
    table = Table("side", "", "bytes", "PSNR, dB", "SSIM", "VGG distance", f"bytes at its PSNR: {', '.join(CODECS)}")
    for row in rows:
        mean_bytes = "-" if row.mean_bytes is None else f"{row.mean_bytes:,.0f}"
        same = ", ".join(f"{wanted:,.0f}" for wanted in (row.same_psnr or {}).values()) or "-"
        distance = "-" if row.vgg is None else f"{row.vgg:.3f}"
        table.add_row(str(row.side), row.name, mean_bytes, f"{row.psnr:.2f}", f"{row.ssim:.3f}", distance, same)
    return table


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="folder with the held-out photographs")
    parser.add_argument("--vgg", type=Path, help="vgg16.safetensors of `omnitok data networks`")
    parser.add_argument("--items", type=int, default=24, help="photographs, evenly spread")
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES))
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    whole = open_set(arguments.data / PHOTOGRAPHS).pixels()[:, 0].numpy()
    chosen = whole[np.unique(np.linspace(0, len(whole) - 1, arguments.items).astype(int))]
    metrics, rows = PictureMetrics(arguments.vgg), []
    for side in arguments.sides:
        pictures = np.stack([centre_square(Image.fromarray(picture), side) for picture in chosen])
        rows += compare(arguments.bundles, pictures, metrics)
    Console(width=120).print(show(rows))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
