"""`omnitok train`: run a recipe."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from training.cli.errors import exit_on_error, refuse_others
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.data.loaders.batch import Loader
    from training.recipes import AnyRecipe
    from training.schedule import Budget
    from training.trainer import Trainer

MAX_SKIPPED_SHOWN = 10
OF_TOKENIZERS = frozenset({"source", "workers", "perceptual_weights"})  # and not of generators
OF_GENERATORS = frozenset({"tokenizer", "held_out"})


def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="Name of the recipe; a wrong one lists them.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data; data/RECIPE by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/RECIPE by default.")] = None,
    stage: Annotated[str | None, typer.Option(help="Run this stage alone.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Bundle of the tokenizer whose codes a generator is trained on.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Other labelled data, or its codes, whose loss is measured at checkpoints.")
    ] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Bundle to begin from, of either head.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    steps: Annotated[
        int | None, typer.Option(help="Length in steps of what is run; the stages share it as in the recipe.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Length in seconds of training, shared likewise.")] = None,
    pause_after: Annotated[float | None, typer.Option(help="Stop with a checkpoint after this many seconds.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cuda where there is one by default.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes of each rank that decode files; by default its share of the cores less one."),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of clips; as recorded by default.")] = None,
    perceptual_weights: Annotated[
        Path, typer.Option(help="VGG16 of `omnitok data networks`, or LPIPS weights, where the recipe asks for them.")
    ] = Path("data/networks/vgg16.safetensors"),
    save_every: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 120.0,
    log_every: Annotated[int, typer.Option(help="Steps between rows of the table.")] = 50,
) -> None:
    """Train a tokenizer through the stages of a recipe, or a generator. Needs the extra `train` of the package.

    Each stage has a folder OUT/<number>-<stage>; the bundles of the run are OUT/RECIPE-vq and OUT/RECIPE-vae. A stage
    that is done is not run again, and a resumed run keeps its lengths. `torchrun -m training train ...` runs on several
    GPUs. A generator needs --tokenizer; its data is a labelled folder, whose codes go to OUT/codes, or a folder of
    codes; its bundle is OUT/RECIPE.
    """
    from training.devices import cores
    from training.distributed import init_distributed
    from training.recipes import GENERATOR_RECIPES, RECIPES, GeneratorRecipe
    from training.runner import RunConfig, Task, run_recipe

    with exit_on_error():
        known: dict[str, AnyRecipe] = {**RECIPES, **GENERATOR_RECIPES}
        if recipe not in known:
            raise TrainingError(f"There is no recipe {recipe!r}; known are {', '.join(known)}.")
        chosen = known[recipe]
        what, others = (
            ("generator", OF_TOKENIZERS) if isinstance(chosen, GeneratorRecipe) else ("tokenizer", OF_GENERATORS)
        )
        refuse_others(context, f"The recipe of a {what}", context.params.keys() - others)
        for name, value in (("--pause-after", pause_after), ("--save-every", save_every), ("--log-every", log_every)):
            if value is not None and not value > 0:
                raise TrainingError(f"{name} must be positive, not {value}.")
        data = data or Path("data") / recipe
        run = RunConfig(
            name=recipe,
            recipe=chosen,
            out=out or Path("runs") / recipe,
            only_stage=stage,
            resume=resume,
            budgets=_budgets(chosen, stage, steps, seconds),
            stop_after=math.inf if pause_after is None else pause_after,
            save_every=save_every,
            log_every=log_every,
            trained_on=() if isinstance(chosen, GeneratorRecipe) else _describe_data(data),
        )
        with init_distributed(device) as (ranks, rank_device):
            console = Console(stderr=True, quiet=not ranks.is_main, soft_wrap=True)
            if workers is None:  # the ranks of this machine share its cores
                workers = max(0, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)
            task: Task
            loader: Loader
            on_checkpoint: Callable[[Trainer], None]
            with ExitStack() as on_exit:
                if isinstance(chosen, GeneratorRecipe):
                    from training.generator.preparation import prepare

                    task, loader, on_checkpoint = prepare(
                        chosen, tokenizer, data, run.out, rank_device, ranks, console, fps, held_out
                    )
                    on_exit.callback(_close, loader, console)
                else:
                    from training.data.loaders.open_loader import open_loader
                    from training.tokenizer.task import TokenizerTask
                    from training.tokenizer.validation import Validator, validation_sets

                    task = TokenizerTask(source, perceptual_weights)
                    loader = open_loader(data, rank_device, chosen.seed, ranks, workers, fps)
                    on_exit.callback(_close, loader, console)
                    stages = chosen.stages if stage is None else (chosen.stage(stage),)
                    on_checkpoint = Validator(validation_sets(data, loader, stages), console)
                run_recipe(run, task, loader, rank_device, ranks, on_checkpoint, console)


def _close(loader: Loader, console: Console) -> None:
    """Stop a loader and print its report: items and their rates, time waited for data, files that were skipped."""
    loader.close()
    report = loader.report()
    broken = report.pop("broken", [])
    lines = ["data: " + ", ".join(f"{name} {value}" for name, value in report.items())]
    lines += [f"skipped {entry['file']}: {entry['reason']}" for entry in broken[:MAX_SKIPPED_SHOWN]]
    if len(broken) > MAX_SKIPPED_SHOWN:
        lines.append(f"and {len(broken) - MAX_SKIPPED_SHOWN} broken files more: `omnitok data inspect` lists them")
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _budgets(recipe: AnyRecipe, only: str | None, steps: int | None, seconds: float | None) -> dict[str, Budget]:
    """Share a length among the stages as they share the recipe's steps; none where none is given."""
    from training.schedule import Budget

    if steps is None and seconds is None:
        return {}
    Budget(steps, seconds)  # refuses what is not a length
    stages = [stage for stage in recipe.stages if only in (None, stage.name)]
    whole = sum(stage.steps for stage in stages)
    return {
        stage.name: Budget(
            None if steps is None else max(1, round(steps * stage.steps / whole)),
            None if seconds is None else seconds * stage.steps / whole,
        )
        for stage in stages
    }


def _describe_data(data: Path) -> tuple[str, ...]:
    """Describe the data in sentences: the sets' own, or the name of a user's folder."""
    from training.data.shards import INFO_FILE, open_set

    sets = [open_set(path.parent) for path in sorted((data / "train").glob(f"*/{INFO_FILE}"))]
    if not sets:
        return (f"files of the folder {data.resolve().name}",)
    sentences = [f"{one.info.name}, {len(one):,} items: {one.info.source}" for one in sets]
    return (*sentences, "sources and authors of the sets of `omnitok data build`: `training/demo_data/CREDITS.md`")
