"""`python -m benchmarks.plots RESULTS.json PLOT.png`: plot of the compiled tokenizer's time by batch and resolution."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.plots import plotting

SIZE_INCHES = (13.0, 4.2)
STYLES = {
    "encode": ("encode", "o-", "tab:blue"),
    "decode": ("decode", "s-", "tab:orange"),
    "eager_encode": ("encode, torch modules", "o:", "tab:gray"),
    "eager_decode": ("decode, torch modules", "s:", "tab:gray"),
    "baseline_encode": ("encode, torch.compile", "o-.", "tab:green"),
    "baseline_decode": ("decode, torch.compile", "s-.", "tab:green"),
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw two panels: time by batch for images of one size, and time by size for one batch.

    Args:
        results: as `benchmarks.compiled.run` writes them.
        path: of the PNG, written atomically.
    """
    lines = {tuple(line["shape"]): line for line in results["lines"]}
    with plotting(path, SIZE_INCHES) as figure:
        by_batch, by_side = figure.subplots(1, 2)
        batches = sorted(shape for shape in lines if shape[1:] == (1, 256))
        _curves(by_batch, [shape[0] for shape in batches], batches, lines, "")
        by_batch.set(xlabel="images of 256x256 in the batch", title="against the batch")
        for batch, frames, name, thin in ((64, 1, "64 images, ", 1.0), (8, 17, "8 clips of 17 frames, ", 0.45)):
            shapes = sorted(shape for shape in lines if shape[:2] == (batch, frames))
            _curves(by_side, [shape[2] for shape in shapes], shapes, lines, name, thin)
        by_side.set(xlabel="height and width, pixels", title="against the resolution")
        by_side.set_xticks([128, 256], ["128", "256"])
        by_side.minorticks_off()
        for panel in (by_batch, by_side):
            panel.set(ylabel="milliseconds", yscale="log")
            panel.grid(True, which="major", alpha=0.3)
            panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.suptitle(f"{results['config']} geometry, bfloat16, {results['gpu']}")


def _curves(
    panel: Any,
    places: list[int],
    shapes: list[tuple[int, int, int]],
    lines: dict[tuple[int, ...], Any],
    prefix: str,
    opacity: float = 1.0,
) -> None:
    panel.set_xscale("log", base=2)
    for name, (label, style, colour) in STYLES.items():
        spreads = [lines[shape][name] for shape in shapes]
        timed = [(place, spread["median"]) for place, spread in zip(places, spreads, strict=True) if spread is not None]
        if timed:  # torch.compile is timed on the requested shapes only
            panel.plot(*zip(*timed, strict=True), style, label=prefix + label, color=colour, alpha=opacity)
    limits = [lines[shape]["roofline"]["encode"] / 1e3 for shape in shapes]
    panel.plot(places, limits, "k--", label=f"{prefix}roofline of encode", alpha=opacity)


def main() -> None:
    """Draw from a file of results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("plot", type=Path)
    arguments = parser.parse_args()
    draw(json.loads(arguments.results.read_text(encoding="utf-8")), arguments.plot)


if __name__ == "__main__":
    main()
