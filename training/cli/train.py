"""`omnitok train`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from training.cli.told import told
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.recipes import Recipe

DEFAULT_SECONDS = 428.0  # what the bundle of this repository was given on one H100


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


def _recipe(name: str) -> Recipe:
    from training.recipes import RECIPES

    if name not in RECIPES:
        raise TrainingError(f"there is no recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name]
