"""Tables 7 to 10 of the paper next to ours, in Markdown: a cell is the mean over the seeds with their range.

The paper's figures are rFID on ImageNet and rFVD on clips at 256 pixels. Its table 7 has columns of 128 and 256 pixels
for each set of clips; the second of them agrees with tables 2, 9 and 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of a table of the paper.

    Args:
        label: as people read it.
        variant, stage: of our bundle.
        paper: the paper's figures, in the order of the table's `paper_columns`; None where it has none.
    """

    label: str
    variant: str
    stage: str
    paper: tuple[float | None, ...]


@dataclass(frozen=True)
class Table:
    """A table of the paper and ours next to it.

    Args:
        number: of the paper's table.
        columns: held-out set and metric of each of our columns.
        paper_columns: names of the paper's.
        rows: in the paper's order.
    """

    number: int
    columns: tuple[tuple[str, str], ...]
    paper_columns: tuple[str, ...]
    rows: tuple[Row, ...]


IMAGES = (("photographs-64", "FID-lite"), ("photographs-64", "PSNR"), ("photographs-128", "PSNR"))
CLIPS = (("games-64", "FVD-lite"), ("games-64", "PSNR"), ("camera-64", "FVD-lite"), ("camera-64", "PSNR"))
TABLES = (
    Table(
        7, IMAGES + CLIPS, ("ImageNet rFID", "K600 rFVD", "UCF rFVD"),
        (
            Row("Image (Fix)", "image-fix", "image", (1.28, None, None)),
            Row("Image (Multi)", "image-multi", "image", (1.44, None, None)),
            Row("Video (Fix)", "video-fix", "video", (None, 48.89, 118.52)),
            Row("Video (Multi)", "video-multi", "video", (None, 54.89, 114.52)),
            Row("Joint (Fix)", "joint-fix", "joint", (1.35, 26.89, 62.52)),
            Row("Joint (Multi)", "joint-multi", "joint", (1.11, 25.97, 42.35)),
        ),
    ),
    Table(
        8, (*IMAGES, ("photographs-64", "VGG distance"), ("photographs-128", "FID-lite")), ("ImageNet rFID",),
        (
            Row("Plain", "image-fix-plain", "image", (1.55,)),
            Row("Window", "image-fix", "image", (1.28,)),
        ),
    ),
    Table(
        9, CLIPS, ("K600 rFVD",),
        (
            Row("Plain", "joint-multi-plain", "joint", (26.43,)),
            Row("Causal", "joint-multi", "joint", (25.97,)),
        ),
    ),
    Table(
        10, IMAGES + CLIPS, ("ImageNet rFID", "K600 rFVD"),
        (
            Row("VQ first: VQ", "joint-multi", "joint", (1.11, 25.97)),
            Row("VQ first: VAE", "joint-multi", "kl", (0.69, 13.02)),
            Row("KL first: VQ", "kl-first", "vq", (2.05, 33.79)),
            Row("KL first: VAE", "kl-first", "joint", (0.89, 12.43)),
        ),
    ),
)  # fmt: skip


def markdown(table: Table, runs: Sequence[dict[str, Any]]) -> str:
    """Lay out one table.

    Args:
        table: of the paper.
        runs: records, as `runner.gather` returns them.
    """
    ours = [f"{held_out} {metric}" for held_out, metric in table.columns]
    paper = [f"*paper: {name}*" for name in table.paper_columns]
    lines = [f"| | {' | '.join(ours + paper)} |", "|" + "---|" * (1 + len(ours) + len(paper))]
    for row in table.rows:
        measured = [run["figures"].get(row.stage, {}) for run in runs if run["variant"] == row.variant]
        cells = [
            _cell([sets[held_out][metric] for sets in measured if metric in sets.get(held_out, {})], metric)
            for held_out, metric in table.columns
        ]
        cells += ["-" if value is None else f"{value:.2f}" for value in row.paper]
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    halves = [_half_split(held_out, metric, runs) for held_out, metric in table.columns]
    if any(halves):
        cells = [_cell(half, metric) for half, (_, metric) in zip(halves, table.columns, strict=True)]
        lines.append(f"| *random halves of the originals* | {' | '.join([*cells, *('' for _ in paper)])} |")
    return "\n".join(lines)


def _half_split(held_out: str, metric: str, runs: Sequence[dict[str, Any]]) -> list[float]:
    """Return the distance of random halves of the originals, which is equal for every tokenizer, or nothing."""
    sets = [stage.get(held_out, {}) for run in runs for stage in run["figures"].values()]
    found = (one.get("half splits", {}).get(metric) for one in sets)
    return [value for value in found if value is not None][:1]


def _cell(values: Sequence[float], metric: str) -> str:
    digits = 3 if metric == "VGG distance" else 2
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"
