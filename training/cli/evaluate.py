"""`omnitok evaluate`: measure a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from training.cli.told import told


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a VQ bundle.")],
    data: Annotated[Path, typer.Option(help="Folder of the data.")] = Path("data/demo"),
    out: Annotated[Path, typer.Option(help="Folder for figures and pictures.")] = Path("runs/evaluation"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure a bundle on held-out data: PSNR, SSIM, codebook usage and perplexity."""
    from training.evaluate import evaluate_bundle

    with told():
        results = evaluate_bundle(bundle, data, out, device)
    table = Table("held-out set", "items", "PSNR, dB", "SSIM", "codes used", "perplexity")
    for title, row in results.items():
        quality = (str(row["items"]), f"{row['psnr']:.2f}", f"{row['ssim']:.3f}") if "psnr" in row else ("", "", "")
        table.add_row(title, *quality, f"{row['usage']:.1%}", f"{row['perplexity']:,.0f}")
    Console().print(table)
