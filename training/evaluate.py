"""How well a tokenizer reconstructs: PSNR, SSIM, codebook usage and perplexity of held-out sets."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model import OmniTokenizer, VQConfig, load_bundle
from model.quality import psnr, ssim
from training.data import open_set
from training.data.sets import replace_file
from training.devices import device_of
from training.errors import TrainingError
from training.pictures import rows_of, write

HELD_OUT = {
    "photographs, 128x128": "held-out/photographs-128",
    "photographs, 256x256": "held-out/photographs-256",
    "camera clips, 17x128x128": "held-out/camera-128",
    "unseen game levels, 17x128x128": "held-out/procgen-128",
}


@dataclass(frozen=True)
class Scores:
    """Scores of one set; PSNR and SSIM are means over items, an item's being the mean over its frames.

    Args:
        items, frames: how many were compared.
        psnr: decibels.
        ssim: at most 1.
        usage: share of the codebook that the set's tokens use.
        perplexity: 2 to the entropy of the set's tokens, in bits.
    """

    items: int
    frames: int
    psnr: float
    ssim: float
    usage: float
    perplexity: float


def read_held_out(data: Path) -> dict[str, NDArray[np.uint8]]:
    """The held-out sets under a data folder, each uint8 (N, T, H, W, 3).

    Raises:
        TrainingError: one is missing or damaged.
    """
    return {title: open_set(data / name).pixels().numpy() for title, name in HELD_OUT.items()}


@torch.inference_mode()
def reconstruct(
    tokenizer: OmniTokenizer, pixels: NDArray[np.uint8], batch: int = 8
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Tokens and reconstructions of a set.

    Args:
        tokenizer: a VQ model in evaluation mode.
        pixels: uint8 (N, T, H, W, 3).
        batch: items at a time.

    Returns:
        uint8 of the shape of `pixels`, and all tokens, flat.
    """
    device = next(tokenizer.parameters()).device
    frames, height, width = pixels.shape[1:4]
    out, tokens = [], []
    for start in range(0, len(pixels), batch):
        part = torch.from_numpy(pixels[start : start + batch]).to(device)
        codes = tokenizer.encode(part)
        out.append(tokenizer.decode(codes, (frames, height, width)).cpu().numpy())
        tokens.append(codes.flatten().cpu().numpy())
    return np.concatenate(out), np.concatenate(tokens)


def score(tokenizer: OmniTokenizer, pixels: NDArray[np.uint8]) -> tuple[Scores, NDArray[np.int64]]:
    """Scores of one set, and its tokens."""
    config = tokenizer.config.head
    assert isinstance(config, VQConfig)
    out, tokens = reconstruct(tokenizer, pixels)
    counts = np.bincount(tokens, minlength=config.codes)
    scores = Scores(
        items=len(pixels),
        frames=len(pixels) * pixels.shape[1],
        psnr=float(psnr(pixels, out).mean()),
        ssim=float(ssim(pixels, out).mean()),
        usage=float((counts > 0).mean()),
        perplexity=perplexity(counts),
    )
    return scores, tokens


def perplexity(counts: NDArray[np.int64]) -> float:
    """2 to the entropy, in bits, of a histogram of tokens."""
    shares = counts[counts > 0] / counts.sum()
    return float(2.0 ** -(shares * np.log2(shares)).sum())


def evaluate(tokenizer: OmniTokenizer, data: Path) -> dict[str, dict[str, float]]:
    """Scores of every held-out set, and codebook figures of all of them together."""
    results: dict[str, dict[str, float]] = {}
    everything = []
    for name, pixels in read_held_out(data).items():
        scores, tokens = score(tokenizer, pixels)
        results[name] = asdict(scores)
        everything.append(tokens)
    config = tokenizer.config.head
    assert isinstance(config, VQConfig)
    counts = np.bincount(np.concatenate(everything), minlength=config.codes)
    results["all held-out tokens"] = {
        "tokens": int(counts.sum()),
        "usage": float((counts > 0).mean()),
        "perplexity": perplexity(counts),
    }
    return results


def figures_table(results: dict[str, dict[str, float]]) -> str:
    """Held-out figures as a Markdown table.

    Args:
        results: what `evaluate` returns.
    """
    lines = ["| held-out set | items | PSNR, dB | SSIM | codes used | perplexity |", "|---|---|---|---|---|---|"]
    for title, row in results.items():
        quality = (f"{row['items']}", f"{row['psnr']:.2f}", f"{row['ssim']:.3f}") if "psnr" in row else ("", "", "")
        lines.append(f"| {title} | {' | '.join(quality)} | {row['usage']:.1%} | {row['perplexity']:,.0f} |")
    return "\n".join(lines)


def evaluate_bundle(bundle: Path, data: Path, out: Path, device: str) -> dict[str, dict[str, float]]:
    """Score a bundle; write `evaluation.json`, `figures.md` for its card, and pictures of every set.

    Args:
        bundle: folder of a VQ bundle.
        data: folder of the data.
        out: folder of the results.
        device: where to run.

    Returns:
        What `evaluate` returns.

    Raises:
        BundleError: the bundle cannot be loaded.
        TrainingError: it is no VQ bundle, there is no such device, or a held-out set is missing or damaged.
    """
    loaded = load_bundle(bundle, device_of(device))
    if not loaded.config.is_vq:
        raise TrainingError(f"{bundle} is a VAE bundle: there is no codebook to evaluate")
    results = evaluate(loaded.tokenizer, data)
    for name in HELD_OUT.values():
        pixels = open_set(data / name).pixels().numpy()
        write(comparison(loaded.tokenizer, pixels), out / f"{Path(name).name}.png")
    record = {"bundle": loaded.hash, "results": results}
    replace_file(out / "evaluation.json", json.dumps(record, indent=2).encode() + b"\n")
    replace_file(out / "figures.md", figures_table(results).encode() + b"\n")
    return results


def comparison(tokenizer: OmniTokenizer, pixels: NDArray[np.uint8], shown: int = 8) -> Image.Image:
    """Originals over reconstructions: evenly spread images, or frames of a clip in the middle of the set.

    Args:
        tokenizer: in evaluation mode.
        pixels: uint8 (N, T, H, W, 3).
        shown: pictures in a row.
    """
    count, frames = pixels.shape[:2]
    items = [count // 2] if frames > 1 else np.linspace(0, count - 1, min(shown, count)).round().astype(int)
    original = pixels[items]
    decoded = reconstruct(tokenizer, original)[0]
    if frames == 1:
        return rows_of(original[:, 0], decoded[:, 0])
    steps = np.linspace(0, frames - 1, min(shown, frames)).round().astype(int)
    return rows_of(original[0, steps], decoded[0, steps])
