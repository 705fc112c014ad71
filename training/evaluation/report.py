"""Figures of an evaluation as tables: Markdown for a model card, and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from training.evaluation.evaluate import Evaluation

Row = tuple[str, ...]
HALVES = "half-split"
NOTE = (
    "The half-split column says what a figure is for two random halves of the originals: for a distance between sets a "
    "floor below which differences mean nothing, for a distance between paired pictures the value of unrelated ones."
)
NAMING = (
    "Figures with `lite` in their names, and the VGG distance, come from packaged networks: they are not FID, KID, FVD "
    "or LPIPS and not comparable with published numbers."
)


def quality_rows(found: Evaluation) -> tuple[Row, list[Row]]:
    """Header and rows: every set, then all of them together."""
    ends = ("codes used", "perplexity") if found.is_vq else ("latent std", "KL, nats")
    rows: list[Row] = [
        (scores.title, f"{scores.items:,}", f"{scores.psnr:.2f}", f"{scores.ssim:.3f}", *_codes(scores.codes))
        for scores in found.sets
    ]
    if len(found.sets) > 1:
        rows.append(("all", "", "", "", *_codes(found.codes)))
    return ("set", "items", "PSNR, dB", "SSIM", *ends), rows


def network_rows(found: Evaluation) -> tuple[Row, list[Row]]:
    """Header and rows of the networks' figures, one for each set and metric."""
    rows: list[Row] = [
        (scores.title, figure.name, _number(figure.value), _number(figure.half_split))
        for scores in found.sets
        for figure in scores.figures
    ]
    return ("set", "metric", "value", HALVES), rows


def figures_markdown(found: Evaluation) -> str:
    """All figures as Markdown."""
    header, rows = network_rows(found)
    return "\n\n".join([_markdown(*quality_rows(found)), *([_markdown(header, rows)] if rows else []), *notes(found)])


def notes(found: Evaluation) -> list[str]:
    """Return the caveats of the network metrics."""
    names = {figure.name for scores in found.sets for figure in scores.figures}
    packaged = any("lite" in name or "VGG" in name for name in names)
    return [NOTE] * bool(names) + [NAMING] * packaged


def terminal_tables(found: Evaluation) -> list[Table]:
    """Return the table for the terminal."""
    tables = []
    for header, rows in (quality_rows(found), network_rows(found)):
        if rows:
            table = Table(*header)
            for row in rows:
                table.add_row(*row)
            tables.append(table)
    return tables


def _codes(codes: dict[str, Any]) -> tuple[str, str]:
    if not codes:
        return "", ""
    if "usage" in codes:
        return f"{codes['usage']:.1%}", f"{codes['perplexity']:,.0f}"
    return f"{min(codes['deviation']):.2f} to {max(codes['deviation']):.2f}", f"{codes['kl']:.2f}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
