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

from model.bundle_header import read_tokenizer
from training.cli.errors import exit_on_error, refuse_others
from training.cli.options import DeviceOption, FpsOption
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.budget import Budget
    from training.data.loaders.batch import Loader
    from training.recipes import AnyRecipe
    from training.trainer import Trainer

OF_TOKENIZERS = frozenset({"source", "workers", "perceptual_weights"})  # and not of generators
OF_GENERATORS = frozenset({"tokenizer", "held_out"})
SHARED_DATA = {"demo-fine": "demo"}  # recipes that train on the data of another


def train(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            help="Recipe: debug, demo, demo-fine or paper-imagenet-ucf of a tokenizer; lm-debug, dit-debug and others "
            "of a generator. Any other name lists them all."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder of images and videos, or of built sets.", show_default="data/RECIPE")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/RECIPE")] = None,
    stage: Annotated[str | None, typer.Option(help="Run this stage alone.", show_default="all")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Generators: bundle of the tokenizer whose codes are trained on; required.")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Generators: other labelled data, or its codes, whose loss is measured at checkpoints."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Tokenizers: bundle to begin from, VQ or VAE.", show_default="random weights"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.")] = False,
    steps: Annotated[
        int | None,
        typer.Option(help="Length of the run, shared by its stages as in the recipe.", show_default="the recipe's"),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length of the run in seconds instead, shared likewise.")
    ] = None,
    pause_after: Annotated[
        float | None, typer.Option(help="Stop with a checkpoint after this many seconds; --resume goes on.")
    ] = None,
    device: DeviceOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Processes of each rank that decode files.", show_default="its share of the cores, less 1"
        ),
    ] = None,
    fps: FpsOption = None,
    perceptual_weights: Annotated[
        Path, typer.Option(help="VGG16 of `omnitok data networks`, or LPIPS weights, where the recipe asks for them.")
    ] = Path("data/networks/vgg16.safetensors"),
    save_every: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 120.0,
    log_every: Annotated[int, typer.Option(help="Steps between rows of the printed table.")] = 50,
) -> None:
    """Train a tokenizer through the stages of a recipe, or a generator on a tokenizer's codes.

    `omnitok train debug --data FOLDER --steps 30` tries a tokenizer in seconds on a CPU; `omnitok train lm-debug --data
    FOLDER --tokenizer bundles/demo-vq` a generator.

    Each stage has a folder OUT/NUMBER-STAGE. The bundles of a tokenizer are OUT/RECIPE-vq and OUT/RECIPE-vae, that of a
    generator is OUT/RECIPE. A stage that is done is not run again, and a resumed run keeps its lengths. Ctrl-C stops
    with a checkpoint. `torchrun -m training train ...` runs on several GPUs.

    The data of a generator is a folder of labelled files, whose codes go to OUT/codes, or a folder of codes.
    """
    from training.data.files import check_exists
    from training.recipes import GENERATOR_RECIPES, RECIPES, GeneratorRecipe

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
        if stage is not None:
            chosen.stage(stage)
        budgets = _budgets(chosen, stage, steps, seconds)
        _check_bundles(chosen, tokenizer, source)
        data = data or Path("data") / SHARED_DATA.get(recipe, recipe)
        for path in (data, *filter(None, [held_out])):
            check_exists(path)

        from training.devices import cores
        from training.distributed import init_distributed
        from training.runner import RunConfig, Task, run_recipe

        run = RunConfig(
            name=recipe,
            recipe=chosen,
            out=out or Path("runs") / recipe,
            only_stage=stage,
            resume=resume,
            budgets=budgets,
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
            validate: Callable[[Trainer], None]
            with ExitStack() as on_exit:
                if isinstance(chosen, GeneratorRecipe):
                    from training.generator.preparation import prepare

                    assert tokenizer is not None
                    task, loader, validate = prepare(
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
                    validate = Validator(validation_sets(data, loader, stages), console)
                run_recipe(run, task, loader, rank_device, ranks, validate, console)


def _check_bundles(recipe: AnyRecipe, tokenizer: Path | None, source: Path | None) -> None:
    """Refuse bundles that the recipe cannot use, whose weights are not read."""
    from training.recipes import GeneratorRecipe

    if source is not None:
        read_tokenizer(source)
    if isinstance(recipe, GeneratorRecipe):
        if tokenizer is None:
            raise TrainingError("A generator is trained on the codes of a tokenizer: name its bundle with --tokenizer.")
        recipe.check_kind("tokens" if read_tokenizer(tokenizer).config.is_vq else "latents")


def _close(loader: Loader, console: Console) -> None:
    """Stop a loader, and print what it has read."""
    loader.close()
    for line in loader.describe():
        console.print(line, highlight=False, markup=False)


def _budgets(recipe: AnyRecipe, only: str | None, steps: int | None, seconds: float | None) -> dict[str, Budget]:
    """Share a length among the stages as they share the recipe's steps; none where none is given."""
    from training.budget import Budget

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
