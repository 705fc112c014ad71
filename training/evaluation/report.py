"""Results of an evaluation as tables: Markdown for a model card, and for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from training.evaluation.evaluate import Evaluation

Row = tuple[str, ...]
HALF_SPLIT_NOTE = (
    "The half-split column is the metric of two random halves of the originals: for a distance between sets a "
    "floor below which differences mean nothing, for a distance between paired pictures the value of unrelated ones."
)
PACKAGED_NOTE = (
    "Metrics with `lite` in their names, and the VGG distance, come from packaged networks: they are not FID, KID, FVD "
    "or LPIPS and not comparable with published numbers."
)


def tables(found: Evaluation) -> list[tuple[Row, list[Row]]]:
    """Return header and rows of each table: every set and all of them together, then the networks' metrics."""
    ends = ("codes used", "perplexity") if found.is_vq else ("latent std", "KL, nats")
    sets: list[Row] = [
        (scores.title, f"{scores.items:,}", f"{scores.psnr:.2f}", f"{scores.ssim:.3f}", *_codes(scores.codes))
        for scores in found.sets
    ]
    if len(found.sets) > 1:
        sets.append(("all", "", "", "", *_codes(found.codes)))
    metrics: list[Row] = [
        (scores.title, metric.name, number(metric.value), number(metric.half_split))
        for scores in found.sets
        for metric in scores.metrics
    ]
    both = [(("set", "items", "PSNR, dB", "SSIM", *ends), sets), (("set", "metric", "value", "half-split"), metrics)]
    return both if metrics else both[:1]


def notes(found: Evaluation) -> list[str]:
    """Return the caveats of the network metrics."""
    names = {metric.name for scores in found.sets for metric in scores.metrics}
    packaged = any("lite" in name or "VGG" in name for name in names)
    return [HALF_SPLIT_NOTE] * bool(names) + [PACKAGED_NOTE] * packaged


def markdown(found: Evaluation) -> str:
    """Return all tables and notes as Markdown."""
    parts = []
    for header, rows in tables(found):
        lines = [header, ("---",) * len(header), *rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*parts, *notes(found)])


def terminal_tables(found: Evaluation) -> list[Table]:
    """Return the tables for the terminal."""
    made = []
    for header, rows in tables(found):
        made.append(Table(*header))
        for row in rows:
            made[-1].add_row(*row)
    return made


def _codes(codes: dict[str, Any]) -> tuple[str, str]:
    if "usage" in codes:
        return f"{codes['usage']:.1%}", f"{codes['perplexity']:,.0f}"
    return f"{min(codes['deviation']):.2f} to {max(codes['deviation']):.2f}", f"{codes['kl']:.2f}"


def number(value: float | None) -> str:
    """Return a value of a table with four significant digits or two decimals, "" for None."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
