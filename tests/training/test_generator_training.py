"""Training of generators on codes: they learn, resume to the same bits, drop labels, and end in bundles that sample."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import equal
from no_questions import NoQuestions
from rich.console import Console
from typer.testing import CliRunner

from model.bundle import load_generator, save_bundle
from model.codes.info import CodesInfo, EncodingOptions
from model.generator.config import GENERATOR_CONFIGS, LanguageModelConfig
from model.generator.diffusion_config import DiffusionConfig
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from training.__main__ import app
from training.budget import Budget
from training.checkpoint import CHECKPOINT_FILE
from training.data.loaders.batch import BatchSpec
from training.distributed import Ranks
from training.errors import TrainingError
from training.generator.code_set import Codes, CodeSet, relabelled
from training.generator.diffusion_step import DiffusionStep
from training.generator.lm_step import LanguageModelStep
from training.generator.sampling import Sampler
from training.generator.step import GeneratorStep
from training.generator.task import GeneratorTask, fit_recipe
from training.generator.token_dataset import CodeBatch, CodeLoader
from training.recipes import GENERATOR_RECIPES, GeneratorRecipe, rename_settings
from training.tokenizer.head_transfer import with_head
from training.trainer import Trainer

QUIET = Console(quiet=True)
CPU = torch.device("cpu")


def codes_of(kind: str) -> CodeSet:
    """Codes that follow from their class: tokens 10 c + column, or latents of mean c."""
    options = EncodingOptions(32, 32, frames=5)
    mean, std = ((1.5,) * 4, (2.0,) * 4) if kind == "latents" else (None, None)
    size = 4 if kind == "latents" else 64
    counts = {"images": 8, "clips": 8}
    info = CodesInfo(
        "t", "0" * 64, "float32", kind, size, 8, 4, True, options, "parquet", counts, "drawn", ("a", "b", "c", "d"),
        counts, counts, mean, std,
    )  # fmt: skip
    labels = torch.arange(8) % 4
    rows = {}
    for name in ("images", "clips"):
        grid = info.grid(name)
        assert grid is not None
        if kind == "tokens":
            codes = (10 * labels.view(-1, 1, 1, 1) + torch.arange(grid[2])).expand(-1, *grid).to(torch.int16)
        else:
            noise = torch.randn(8, *grid, 4, generator=torch.Generator().manual_seed(0))
            codes = (labels.view(-1, 1, 1, 1, 1) + 0.05 * noise).half()
        rows[name] = Codes(codes.contiguous(), labels, torch.arange(8))
    return CodeSet(info, rows)


def recipe_of(kind: str, **changes: Any) -> GeneratorRecipe:
    name = "lm-debug" if kind == "tokens" else "dit-debug"
    recipe = GENERATOR_RECIPES[name]
    stage = replace(recipe.stages[0], **changes)
    return fit_recipe(replace(recipe, stages=(stage,)), codes_of(kind).info)


def step_of(recipe: GeneratorRecipe, ranks: Ranks | None = None) -> GeneratorStep[Any]:
    torch.manual_seed(recipe.seed)
    network = make_generator(recipe.network)
    kind = LanguageModelStep if isinstance(recipe.network, LanguageModelConfig) else DiffusionStep
    return kind(network, recipe.stages[0], recipe.seed, ranks)


def trainer_of(kind: str, out: Path, **changes: Any) -> Trainer:
    recipe = recipe_of(kind, **changes)
    return Trainer(recipe, recipe.stages[0], step_of(recipe), CodeLoader(codes_of(kind), CPU, recipe.seed), out)


@pytest.mark.parametrize("kind", ["tokens", "latents"])
def test_a_resumed_run_equals_one_that_never_stopped(kind: str, tmp_path: Path) -> None:
    whole = trainer_of(kind, tmp_path / "whole", gradient_accumulation_steps=2)
    assert whole.run(Budget(steps=8), log_every=1, console=QUIET)
    parts = trainer_of(kind, tmp_path / "parts", gradient_accumulation_steps=2)
    assert not parts.run(Budget(steps=8), stop_after=1e-9, console=QUIET)
    assert parts.step < 8
    later = trainer_of(kind, tmp_path / "parts", gradient_accumulation_steps=2)
    torch.manual_seed(99)  # nothing may depend on the process's random state
    later.resume()
    assert later.run(Budget(steps=8), console=QUIET)
    states = [torch.load(tmp_path / name / CHECKPOINT_FILE, weights_only=True) for name in ("whole", "parts")]
    assert equal(*states)
    weight = next(iter(states[0]["state"]["network"].values()))
    weight.view(-1)[0] += 1
    assert not equal(*states)  # the comparison can fail


def test_a_language_model_learns_codes_that_follow_from_the_class(tmp_path: Path) -> None:
    trainer = trainer_of("tokens", tmp_path, image_batch_size=8, clip_batch_size=4)
    assert trainer.run(Budget(steps=150), console=QUIET)
    step = trainer.train_step
    assert isinstance(step, LanguageModelStep)
    greedy = replace(step.ema.config, sampling=replace(step.ema.config.sampling, temperature=0.0, guidance=1.0))
    step.ema.config = greedy
    for kind, frames in (("images", 1), ("clips", 2)):
        rows = codes_of("tokens").kinds[kind]
        (drawn,) = Sampler(step.ema).codes([0, 1, 2, 3], frames)
        assert torch.equal(drawn, rows.codes[:4].long())


def test_diffusion_learns_normalised_latents_and_samples_them(tmp_path: Path) -> None:
    trainer = trainer_of("latents", tmp_path, image_batch_size=32)
    assert isinstance(trainer.train_step, DiffusionStep)
    config = trainer.train_step.config
    assert isinstance(config, DiffusionConfig)
    assert (config.latent_scale, config.latent_shift) == ((0.5,) * 4, (1.5,) * 4)
    assert config.grid == (1, 4, 4)  # the recipe draws no clips
    batch = next(trainer.loader.stream([BatchSpec("images", 32, 16, 0, 1)]))
    before = float(trainer.train_step.losses(trainer.train_step.network, batch, 0)["loss"].detach())
    assert trainer.run(Budget(steps=150), console=QUIET)
    assert float(trainer.train_step.losses(trainer.train_step.network, batch, 0)["loss"].detach()) < 0.2 * before
    ema = trainer.train_step.ema
    ema.config = replace(config, sampling=replace(config.sampling, steps=4))
    (first,) = Sampler(ema).codes([0, 3], 1)
    (again,) = Sampler(ema).codes([0], 1)
    assert first.shape == (2, 1, 4, 4, 4)
    torch.testing.assert_close(first[:1], again, atol=1e-3, rtol=1e-3)  # a sample is its seed's, whatever its company


@pytest.mark.parametrize("kind", ["tokens", "latents"])
def test_nothing_in_a_step_waits_for_a_value(kind: str) -> None:
    step = step_of(recipe_of(kind, gradient_accumulation_steps=2))
    for name, frames in (("images", 1), ("clips", 5))[: 2 if kind == "tokens" else 1]:
        batch = next(CodeLoader(codes_of(kind), CPU, 0).stream([BatchSpec(name, 32, 4, 0, frames)]))
        step.prepare(batch, 1, 0.0)
        with NoQuestions():
            step(batch, None)


def test_labels_are_dropped_anew_at_each_step_and_the_same_for_any_ranks() -> None:
    recipe = recipe_of("tokens", label_dropout=0.25)
    step = step_of(recipe)
    labels = torch.arange(4000) % 4
    dropped = []
    for number in (1, 2):
        step.prepare(CodeBatch(labels, labels), number, 0.0)
        out = step.drop_labels(labels, 0)
        assert ((out == labels) | (out == 4)).all()
        dropped.append(out == 4)
        assert abs(float(dropped[-1].float().mean()) - 0.25) < 0.03
    assert not torch.equal(*dropped)
    half = step.drop_labels(labels[2000:], 2000)
    assert torch.equal(half == 4, dropped[1][2000:])


@pytest.mark.parametrize("kind", ["tokens", "latents"])
def test_data_without_classes_train_the_one_class_that_is_sampled(kind: str) -> None:
    codes = codes_of(kind)
    rows = {name: replace(one, labels=torch.full((8,), -1)) for name, one in codes.kinds.items()}
    bare = CodeSet(replace(codes.info, classes=()), rows)
    loader = CodeLoader(bare, CPU, 0)
    batch = next(loader.stream([BatchSpec("images", 32, 16, 0, 1)]))
    recipe = fit_recipe(recipe_of(kind, label_dropout=0.0), bare.info)
    assert (recipe.network.classes, GeneratorTask(bare.info).classes) == (1, ("all",))
    assert step_of(recipe).drop_labels(batch.labels, 0).tolist() == [0] * 16
    assert loader.labels("images") == [0]


def test_two_ranks_see_what_one_sees() -> None:
    recipe = recipe_of("latents")
    spec = [BatchSpec("images", 32, 8, 0, 1)]
    whole = next(CodeLoader(codes_of("latents"), CPU, 0).stream(spec))
    steps = [step_of(recipe, Ranks(rank, 2)) for rank in range(2)] + [step_of(recipe)]
    for step in steps:
        step.prepare(whole, 3, 0.0)
    loaders = [CodeLoader(codes_of("latents"), CPU, 0, Ranks(rank, 2)) for rank in range(2)]
    parts = [steps[rank].losses(steps[rank].network, next(loaders[rank].stream(spec)), 4 * rank) for rank in range(2)]
    mean = (parts[0]["loss"] + parts[1]["loss"]) / 2
    torch.testing.assert_close(mean, steps[2].losses(steps[2].network, whole, 0)["loss"])


def test_the_first_loss_of_a_language_model_is_that_of_a_guess() -> None:
    step = step_of(recipe_of("tokens"))
    batch = next(CodeLoader(codes_of("tokens"), CPU, 0).stream([BatchSpec("clips", 32, 8, 0, 5)]))
    loss = float(step.losses(step.network, batch, 0)["loss"].detach())
    assert abs(loss - math.log(step.config.codes)) < 0.5


def test_a_tokenizer_of_the_other_head_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    bundle, out = str(tmp_path / "vae"), str(tmp_path / "run")
    save_bundle(tmp_path / "vae", OmniTokenizer(with_head(CONFIGS["debug"], "vae")), "random weights")
    command = ["train", "lm-debug", "--data", "none", "--tokenizer", bundle, "--out", out, "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "name a VQ tokenizer" in result.output) == (1, True)


def test_codes_of_the_other_head_are_refused_and_missing_kinds_are_left_out() -> None:
    info = codes_of("latents").info
    with pytest.raises(TrainingError, match="trains on tokens, not on latents: name a VQ tokenizer"):
        fit_recipe(GENERATOR_RECIPES["lm-debug"], info)
    images = fit_recipe(GENERATOR_RECIPES["lm-demo"], replace(codes_of("tokens").info, rows={"images": 4}))
    assert images.stages[0].clip_batch_size == 0
    assert images.network.grid == (1, 4, 4)
    with pytest.raises(TrainingError, match="0 images and 32 clips a step, and the codes hold 4 images and 0 clips"):
        fit_recipe(GENERATOR_RECIPES["latte-xl"], replace(info, rows={"images": 4}))
    for name, images_too in (("latte-xl", False), ("latte-demo", True)):
        latte = fit_recipe(GENERATOR_RECIPES[name], replace(info, rows={"clips": 4})).network
        assert isinstance(latte, DiffusionConfig)
        assert latte.images == images_too
    one_frame = replace(info, rows={"clips": 4}, options=replace(info.options, frames=1))
    assert fit_recipe(GENERATOR_RECIPES["latte-xl"], one_frame).network.grid[0] == 1
    large = fit_recipe(GENERATOR_RECIPES["dit-xl"], info).network
    assert isinstance(large, DiffusionConfig)
    assert large.guidance_channels is None  # the published files' rule is for these


@pytest.mark.parametrize("name", ["dit-xl", "latte-demo", "latte-xl"])
def test_runs_of_versions_that_did_not_state_images_are_resumed(name: str) -> None:
    now = json.loads(json.dumps(fit_recipe(GENERATOR_RECIPES[name], codes_of("latents").info).to_dict()))
    then = now | {"network": {key: value for key, value in now["network"].items() if key != "images"}}
    assert rename_settings(then) == rename_settings(now) == now


@pytest.mark.parametrize(("recipe", "head"), [("lm-debug", "vq"), ("dit-debug", "vae")])
def test_the_command_trains_from_files_to_a_bundle_that_samples(
    recipe: str, head: str, files: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    hash_ = save_bundle(tmp_path / "tokenizer", OmniTokenizer(with_head(CONFIGS["debug"], head)), "random weights")
    command = ["train", recipe, "--data", files, "--tokenizer", tmp_path / "tokenizer", "--steps", 6]
    command += ["--out", tmp_path / "run", "--device", "cpu", "--log-every", 1]
    result = CliRunner().invoke(app, [*map(str, command), "--pause-after", "0.000001"])
    assert result.exit_code == 0, result.output
    assert "--resume goes on" in result.output
    latest = tmp_path / "run" / f"1-{recipe[:-6]}" / "latest"
    assert load_generator(latest).tokenizer_hash == hash_
    result = CliRunner().invoke(app, [*map(str, command), "--resume", "--held-out", str(files)])
    assert result.exit_code == 0, result.output
    assert re.search(r"step +6 held-out loss: images \d", result.output)
    assert not latest.exists()
    bundle = load_generator(tmp_path / "run" / recipe)
    assert bundle.tokenizer_hash == hash_
    assert bundle.classes == ("backward", "forward", "sky", "snow")
    assert "backward, forward, sky, snow" in (tmp_path / "run" / recipe / "README.md").read_text()
    assert (tmp_path / "run" / f"1-{recipe[:-6]}" / "samples" / "0000006-images.png").is_file()
    (drawn,) = Sampler(bundle.generator).codes([0], 1)
    assert drawn.shape[:4] == (1, 1, *bundle.config.grid[1:])


@pytest.mark.parametrize("kind", ["tokens", "latents"])
def test_held_out_items_are_measured_with_the_same_draws_whatever_the_step(kind: str) -> None:
    step = step_of(recipe_of(kind))
    loader = CodeLoader(codes_of(kind), CPU, 0)
    batch = next(loader.stream([BatchSpec("images", 32, 8, 0, 1)]))
    found = []
    for number in (1, 7):
        step.prepare(batch, number, 0.0)
        found.append([float(step.held_out_loss(batch, first)) for first in (0, 8)])
    assert found[0] == found[1]
    assert (found[0][0] == found[0][1]) == (kind == "tokens")  # other items have other timesteps and noise


def test_held_out_classes_are_matched_by_name() -> None:
    codes = codes_of("tokens")
    other = CodeSet(replace(codes.info, classes=("d", "unknown", "a", "b")), codes.kinds)
    rows = relabelled(other, ("a", "b", "c", "d")).kinds["images"]
    assert rows.labels.tolist() == [3, 0, 1, 3, 0, 1]
    assert rows.items.tolist() == [0, 2, 3, 4, 6, 7]
    with pytest.raises(TrainingError, match="none of x"):
        relabelled(codes, ("x",))


def test_every_recipe_is_sound() -> None:
    for name, recipe in GENERATOR_RECIPES.items():
        assert recipe.network in GENERATOR_CONFIGS.values(), name
        assert (
            type(recipe.network).from_dict(
                {key: value for key, value in recipe.to_dict()["network"].items() if key != "kind"}
            )
            == recipe.network
        )
