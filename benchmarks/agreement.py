"""`python -m benchmarks.agreement BUNDLE PICTURES`: effect of precision and kernels on a trained VQ tokenizer."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import describe_machine, device
from kernels import use_backend
from model.bundle import load_bundle
from model.inference.tokenizer import CompiledTokenizer
from model.metrics.psnr import psnr
from model.tokenizer.tokenizer import OmniTokenizer
from training.data.shards import open_set

BATCH_IMAGES = 16  # of one call
TRUTH = "float32, reference operators"


@torch.inference_mode()
def agreement(bundle: Path, pictures: Path) -> dict[str, tuple[float, float]]:
    """Return, by variant, the share of tokens that differ from float32 on the reference operators, and the PSNR.

    Args:
        bundle: of a VQ tokenizer.
        pictures: a held-out set of images.
    """
    where = device()
    pixels = open_set(pictures).pixels()

    def load(dtype: torch.dtype, compiled: bool) -> OmniTokenizer:
        tokenizer = load_bundle(bundle, where.type, dtype).tokenizer
        return CompiledTokenizer(tokenizer) if compiled else tokenizer

    variants = {
        TRUTH: (load(torch.float32, compiled=False), "reference"),
        "float32, compiled": (load(torch.float32, compiled=True), "auto"),
        "bfloat16, torch's operators": (load(torch.bfloat16, compiled=False), "torch"),
        "bfloat16, compiled": (load(torch.bfloat16, compiled=True), "auto"),
    }
    flips, quality, total = dict.fromkeys(variants, 0), dict.fromkeys(variants, 0.0), 0
    for part in pixels.split(BATCH_IMAGES):
        part = part.to(where)
        truth: torch.Tensor | None = None
        for name, (tokenizer, backend) in variants.items():
            with use_backend(backend):
                tokens = tokenizer.encode(part)
                out = tokenizer.decode(tokens)
            truth = tokens if truth is None else truth
            flips[name] += int((tokens != truth).sum())
            quality[name] += float(psnr(out.cpu(), part.cpu()).sum())
        total += 0 if truth is None else truth.numel()
    return {name: (flips[name] / total, quality[name] / len(pixels)) for name in variants}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path)
    arguments = parser.parse_args()
    print(describe_machine())
    table = Table(title=f"{arguments.bundle.name} on {arguments.pictures.name}")
    for column in ("variant", "tokens that differ", "PSNR, dB", "change, dB"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    found = agreement(arguments.bundle, arguments.pictures)
    for name, (flips, quality) in found.items():
        table.add_row(name, f"{flips:.2%}", f"{quality:.3f}", f"{quality - found[TRUTH][1]:+.4f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
