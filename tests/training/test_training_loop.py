"""The loop of a stage: it learns, it resumes to the same bits, it says what is wrong."""

from __future__ import annotations

import csv
import io
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import equal
from rich.console import Console
from torch import Tensor

from model.tokenizer.tokenizer import OmniTokenizer, is_encoding_weight
from training.budget import Budget
from training.checkpoint import CHECKPOINT_FILE
from training.data.loaders.batch import BatchSpec
from training.data.loaders.device_loader import DeviceLoader
from training.errors import TrainingError
from training.logging import METRICS_FILE
from training.recipes import RECIPES, RENAMED_SETTINGS, LossWeights
from training.schedule import Phase
from training.tokenizer.head_transfer import with_head
from training.tokenizer.start import StageStart
from training.trainer import Trainer

QUIET = Console(quiet=True)
DEBUG = RECIPES["debug"]
BARE = {"losses": LossWeights(l2=20.0, l1=2.0)}  # no discriminators, which triple the time of a step


def trainer_of(
    loader: DeviceLoader, out: Path, stage: str = "joint", learned_codebook: bool = False, **changes: Any
) -> Trainer:
    """A trainer of a stage of the debug recipe from random weights, with changed settings."""
    changed = replace(DEBUG.stage(stage), **changes)
    recipe = replace(DEBUG, stages=tuple(changed if old.name == stage else old for old in DEBUG.stages))
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(with_head(recipe.tokenizer, changed.head))
    start = StageStart(tokenizer, codebook_initialized=learned_codebook)
    return Trainer(recipe, changed, start.step(recipe, changed), loader, out)


def state_of(out: Path) -> dict[str, Any]:
    return torch.load(out / CHECKPOINT_FILE, weights_only=True)


def logged_steps(out: Path) -> list[int]:
    with (out / METRICS_FILE).open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def error_of(trainer: Trainer) -> float:
    """Mean squared error of the averaged weights on one fixed batch."""
    pixels = next(trainer.loader.stream([BatchSpec("images", 32, 16, 0, 1)]))
    with torch.inference_mode():
        restored = trainer.train_step.state.ema.reconstruct(pixels)
    return float((restored.float() / 255 - pixels.float() / 255).square().mean())


def test_training_lowers_the_error_and_spreads_the_codes(loader: DeviceLoader, tmp_path: Path) -> None:
    trainer = trainer_of(loader, tmp_path, "image", **BARE)
    before = error_of(trainer)
    trainer.run(Budget(steps=80), console=QUIET)
    assert error_of(trainer) < 0.4 * before
    pixels = next(loader.stream([BatchSpec("images", 32, 32, 0, 1)]))
    with torch.inference_mode():
        assert (
            len(trainer.train_step.state.ema.encode(pixels).unique()) > 16
        )  # of 64; a collapsed codebook uses one or two


@pytest.mark.parametrize("head", ["vq", "vae"])
def test_a_decoder_learns_alone_and_resumes_to_the_same_bits(loader: DeviceLoader, tmp_path: Path, head: str) -> None:
    """Weights that encode and tokens stay, the error falls, and a stopped run ends as one that never stopped."""
    image = replace(DEBUG.stage("image"), head=head)
    stage = replace(DEBUG.stage("joint"), head=head, decoder_only=True, **BARE)
    recipe = replace(DEBUG, stages=(image, stage))

    def begin(out: Path) -> Trainer:
        torch.manual_seed(0)
        start = StageStart(OmniTokenizer(with_head(recipe.tokenizer, head)), codebook_initialized=head == "vq")
        return Trainer(recipe, stage, start.step(recipe, stage), loader, out)

    whole = begin(tmp_path / "whole")
    pixels = next(loader.stream([BatchSpec("clips", 32, 4, 0, 5)]))
    before = {name: value.clone() for name, value in whole.train_step.state.ema.state_dict().items()}
    codes, error = whole.train_step.state.ema.encode(pixels), error_of(whole)
    assert whole.run(Budget(steps=40), console=QUIET)
    assert error_of(whole) < 0.8 * error
    for network in (whole.train_step.state.ema, whole.train_step.state.tokenizer):
        assert torch.equal(network.eval().encode(pixels), codes)
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]) == is_encoding_weight(name), name

    assert not begin(tmp_path / "halves").run(Budget(steps=40), stop_after=1e-9, console=QUIET)
    stopped = begin(tmp_path / "halves")
    stopped.resume()
    assert stopped.step == 1
    assert stopped.run(Budget(steps=40), console=QUIET)
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "halves"), ("seconds",))


def test_codes_learned_by_averages_stay_spread_too(loader: DeviceLoader, tmp_path: Path) -> None:
    trainer = trainer_of(loader, tmp_path, "image", codebook_update="ema", codebook_decay=0.9, **BARE)
    before = error_of(trainer)
    trainer.run(Budget(steps=80), console=QUIET)
    assert error_of(trainer) < 0.5 * before
    assert "codebook" not in [
        name for name, p in trainer.train_step.state.tokenizer.head.named_parameters() if p.requires_grad
    ]


@pytest.mark.parametrize(
    ("stage", "changes", "cut"),
    [
        ("joint", {"unquantized_steps": 4}, 2),
        ("joint", {"unquantized_steps": 4}, 9),
        ("joint", {"codebook_update": "ema"}, 6),
        ("kl", {"gradient_accumulation_steps": 2}, 6),
    ],
)
def test_a_resumed_stage_equals_one_that_never_stopped(
    loader: DeviceLoader, tmp_path: Path, stage: str, changes: dict[str, Any], cut: int
) -> None:
    """Through the start of the codebook, revivals, and the start of the discriminators; weights, moments, all."""
    settings = DEBUG.stage(stage).discriminators
    changes = {"dead_code_steps": 4, "discriminators": replace(settings, start=6, every=2)} | changes
    whole = trainer_of(loader, tmp_path / "whole", stage, **changes)
    assert whole.run(Budget(steps=12), log_every=1, console=QUIET)

    first = trainer_of(loader, tmp_path / "parts", stage, **changes)
    take = first._step

    def stopping(draw: BatchSpec, pixels: Tensor, share: float) -> dict[str, Tensor]:
        metrics = take(draw, pixels, share)
        if first.step == cut:
            signal.raise_signal(signal.SIGTERM)
        return metrics

    first._step = stopping  # type: ignore[method-assign]
    assert not first.run(Budget(steps=12), log_every=1, console=QUIET)
    second = trainer_of(loader, tmp_path / "parts", stage, **changes)
    torch.manual_seed(99)  # a resumed process has another random state: nothing may depend on it
    second.resume()
    assert second.step == cut
    assert second.run(Budget(steps=12), log_every=1, console=QUIET)
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    output = [(tmp_path / name / METRICS_FILE).read_text().splitlines() for name in ("whole", "parts")]
    assert len(output[0]) == len(output[1]) == 13


def test_a_resumed_stage_remembers_that_it_took_over_a_codebook(loader: DeviceLoader, tmp_path: Path) -> None:
    """It quantises from its first step, and so must what goes on with it."""
    settings = {"unquantized_steps": 3, **BARE}
    whole = trainer_of(loader, tmp_path / "whole", learned_codebook=True, **settings)
    whole.run(Budget(steps=4), console=QUIET)
    trainer_of(loader, tmp_path / "parts", learned_codebook=True, **settings).run(
        Budget(steps=4), stop_after=1e-9, console=QUIET
    )
    second = trainer_of(loader, tmp_path / "parts", **settings)
    second.resume()
    assert second.step == 1
    second.run(Budget(steps=4), console=QUIET)
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


@pytest.mark.parametrize(("save_every", "saved"), [(0.0, [1, 2, 3, 3]), (1e9, [3])])
def test_checkpoints_are_written_as_often_as_is_asked(
    loader: DeviceLoader, tmp_path: Path, save_every: float, saved: list[int]
) -> None:
    on_disk: list[int] = []
    trainer = trainer_of(loader, tmp_path, **BARE)
    trainer.run(
        Budget(steps=3),
        save_every=save_every,
        on_checkpoint=lambda it: on_disk.append(state_of(tmp_path)["step"]),
        console=QUIET,
    )
    assert on_disk == saved


def test_a_stop_request_ends_a_validation_and_none_begins_after_it(loader: DeviceLoader, tmp_path: Path) -> None:
    seen: list[str] = []

    def validate(trainer: Trainer) -> None:
        seen.append(f"validation at {trainer.step}")
        signal.raise_signal(signal.SIGINT)
        seen.append("its end")

    def save(trainer: Trainer) -> None:
        seen.append(f"bundle at {trainer.step}")

    trainer = trainer_of(loader, tmp_path, **BARE)
    assert not trainer.run(Budget(steps=9), save_every=0.0, on_checkpoint=save, validate=validate, console=QUIET)
    assert trainer.interrupted
    assert seen[:2] == ["bundle at 1", "validation at 1"]
    assert set(seen[2:]) == {"bundle at 2"}
    assert state_of(tmp_path)["step"] == 2


def test_a_checkpoint_of_other_bits_is_seen(loader: DeviceLoader, tmp_path: Path) -> None:
    """The comparison above can fail: at one bit of any state."""
    trainer = trainer_of(loader, tmp_path, discriminators=replace(DEBUG.stage("joint").discriminators, start=0))
    trainer.run(Budget(steps=3), console=QUIET)
    saved = state_of(tmp_path)
    state = trainer.train_step.state
    assert state.discriminator_optimizer is not None
    assert state.codebook_updater is not None
    head = state.tokenizer.head.from_code.bias
    places: list[Tensor] = [
        head,
        state.ema.head.from_code.bias,
        state.optimizer.state[head]["exp_avg_sq"],
        next(state.discriminators.parameters()),
        next(iter(state.discriminator_optimizer.state.values()))["exp_avg"],
        state.codebook_updater.last_used,
    ]
    for place in places:
        kept = place.detach().clone()
        place.detach()[(0,) * place.dim()] += 1
        trainer.save()
        assert not equal(saved, state_of(tmp_path))
        place.detach().copy_(kept)
    trainer.save()
    assert equal(saved, state_of(tmp_path))


def test_a_checkpoint_of_another_recipe_or_stage_is_refused(loader: DeviceLoader, tmp_path: Path) -> None:
    trainer_of(loader, tmp_path).save()
    with pytest.raises(
        TrainingError, match=r"another recipe, which differs in stages\[1\]\.dead_code_steps \(10, now 9\)"
    ):
        trainer_of(loader, tmp_path, dead_code_steps=9).resume()
    with pytest.raises(TrainingError, match="belongs to stage 'joint', not 'image'"):
        trainer_of(loader, tmp_path, "image").resume()


def test_a_checkpoint_of_the_version_before_goes_on_to_the_same_bits(loader: DeviceLoader, tmp_path: Path) -> None:
    trainer_of(loader, tmp_path / "new", **BARE).run(Budget(steps=6), stop_after=1e-9, console=QUIET)
    saved = state_of(tmp_path / "new")
    names = {new: old for old, new in RENAMED_SETTINGS.items()}
    saved["format"] = "omnitok-training/3"
    saved["plain"], saved["started"] = saved.pop("unquantized_steps"), saved.pop("codebook_initialized")
    saved["learner"] = saved.pop("state")
    saved["learner"]["average"] = saved["learner"].pop("ema")
    stages = [{names.get(name, name): value for name, value in stage.items()} for stage in saved["recipe"]["stages"]]
    saved["recipe"] |= {"stages": stages}
    (tmp_path / "old").mkdir()
    torch.save(saved, tmp_path / "old" / CHECKPOINT_FILE)
    for name in ("new", "old"):
        trainer = trainer_of(loader, tmp_path / name, **BARE)
        trainer.resume()
        assert trainer.run(Budget(steps=6), console=QUIET)
    assert equal(state_of(tmp_path / "new"), state_of(tmp_path / "old"))


def test_a_checkpoint_of_before_a_setting_is_resumed(loader: DeviceLoader, tmp_path: Path) -> None:
    trainer_of(loader, tmp_path).save()
    saved = state_of(tmp_path)
    for stage in saved["recipe"]["stages"]:
        del stage["latent_channels"], stage["decoder_only"]
    torch.save(saved, tmp_path / CHECKPOINT_FILE)
    trainer_of(loader, tmp_path).resume()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 half a file"])
def test_a_damaged_checkpoint_is_named(loader: DeviceLoader, tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(TrainingError, match=str(tmp_path / CHECKPOINT_FILE)):
        trainer_of(loader, tmp_path).resume()


def test_there_must_be_a_checkpoint_to_resume(loader: DeviceLoader, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint"):
        trainer_of(loader, tmp_path).resume()


def test_a_file_that_cannot_grow_leaves_the_last_checkpoint_whole(loader: DeviceLoader, tmp_path: Path) -> None:
    """The kernel refuses bytes beyond a limit, as it does where a disk is full."""
    trainer = trainer_of(loader, tmp_path)
    trainer.save()
    kept = (tmp_path / CHECKPOINT_FILE).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, hard))
    try:
        with pytest.raises(TrainingError, match=r"takes no checkpoint.*the last one is whole"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == kept
    assert [path.name for path in tmp_path.glob("*.pt*")] + list(tmp_path.glob(".*")) == [CHECKPOINT_FILE]


def test_a_loss_that_is_no_number_ends_the_run(loader: DeviceLoader, tmp_path: Path) -> None:
    trainer = trainer_of(loader, tmp_path, **BARE)
    trainer.run(Budget(steps=2), console=QUIET)
    later = trainer_of(loader, tmp_path, **BARE)
    later.resume()
    later.budget = None
    with torch.no_grad():
        later.train_step.state.tokenizer.decoder.pixels.first.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="The loss is nan at step 3"):
        later.run(Budget(steps=5), log_every=1, console=QUIET)


@pytest.mark.parametrize(
    ("where", "value"),
    [("weight", "nan"), ("averaged weight", "inf"), ("moment", "inf"), ("discriminator", "nan"), ("codebook", "inf")],
)
def test_a_checkpoint_is_never_replaced_by_one_that_is_not_finite(
    loader: DeviceLoader, tmp_path: Path, where: str, value: str
) -> None:
    trainer = trainer_of(loader, tmp_path, codebook_update="ema")
    trainer.run(Budget(steps=2), console=QUIET)
    kept = (tmp_path / CHECKPOINT_FILE).read_bytes()
    state = trainer.train_step.state
    weight = state.tokenizer.decoder.pixels.first.bias
    assert state.codebook_updater is not None
    broken = {
        "weight": weight,
        "averaged weight": state.ema.decoder.pixels.first.bias,
        "moment": state.optimizer.state[weight]["exp_avg_sq"],
        "discriminator": next(state.discriminators.parameters()),
        "codebook": state.codebook_updater.counts,
    }
    with torch.no_grad():
        broken[where][(0,) * broken[where].dim()] = float(value)
    with pytest.raises(TrainingError, match="not finite at step 2"):
        trainer.save()
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == kept


def test_a_run_that_breaks_between_two_logs_shows_nobody_its_weights(loader: DeviceLoader, tmp_path: Path) -> None:
    trainer = trainer_of(loader, tmp_path, **BARE)
    seen: list[int] = []
    take = trainer.call

    def spoil(pixels: Tensor, phase: Phase) -> dict[str, Tensor]:
        metrics = take(pixels, phase)
        if trainer.step == 2:
            trainer.train_step.state.ema.decoder.pixels.first.bias.data.fill_(float("nan"))
        return metrics

    trainer.call = spoil
    with pytest.raises(TrainingError, match="not finite at step 3"):
        trainer.run(Budget(steps=3), on_checkpoint=lambda it: seen.append(it.step), console=QUIET)
    assert not seen
    assert state_of(tmp_path)["step"] == 0


def test_a_run_that_crashed_past_its_checkpoint_tells_each_step_once(loader: DeviceLoader, tmp_path: Path) -> None:
    first = trainer_of(loader, tmp_path, **BARE)
    first.run(Budget(steps=60), stop_after=1e-9, console=QUIET)
    assert first.metrics_logger is not None
    for step in (51, 102):  # it went on to step 102, and was killed while it wrote one row more
        first.metrics_logger.log_step({"step": step, "kind": "images"})
    with first.metrics_logger.path.open("a") as file:
        file.write("1")
    second = trainer_of(loader, tmp_path, **BARE)
    second.resume()
    second.run(Budget(steps=60), console=QUIET)
    assert logged_steps(tmp_path) == [1, 51, 60]
    assert (tmp_path / METRICS_FILE).read_bytes().endswith(b"\n")


def test_a_stage_that_begins_anew_tells_only_of_itself(loader: DeviceLoader, tmp_path: Path) -> None:
    """One that crashed before its first checkpoint leaves metrics behind, and nothing to resume."""
    metrics_logger = trainer_of(loader, tmp_path, **BARE).metrics_logger
    assert metrics_logger is not None
    metrics_logger.log_step({"step": 1, "kind": "images"})
    trainer_of(loader, tmp_path, **BARE).run(Budget(steps=2), console=QUIET)
    assert logged_steps(tmp_path) == [1, 2]
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 3


def test_a_resumed_stage_has_the_length_that_it_was_begun_with(loader: DeviceLoader, tmp_path: Path) -> None:
    trainer_of(loader, tmp_path, **BARE).run(Budget(steps=40), stop_after=1e-6, console=QUIET)
    later = trainer_of(loader, tmp_path, **BARE)
    later.resume()
    assert later.budget == Budget(steps=40)
    with pytest.raises(TrainingError, match="a run of 40 steps, not of 9 seconds"):
        later.run(Budget(seconds=9.0), console=QUIET)


def test_a_terminal_shows_how_far_a_run_is(loader: DeviceLoader, tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    trainer_of(loader, tmp_path, **BARE).run(Budget(steps=3), console=console)
    assert re.search(r"step 3\b.*100\.0 %.*steps/s", shown.getvalue())
    assert re.search(r"joint step\s+1\s.*PSNR", shown.getvalue())


def test_the_last_line_on_the_terminal_is_that_of_the_last_step(loader: DeviceLoader, tmp_path: Path) -> None:
    shown = io.StringIO()
    trainer_of(loader, tmp_path, **BARE).run(Budget(steps=5), log_every=2, console=Console(file=shown, width=200))
    shares = re.findall(r"step +(\d+) +([\d.]+)%", shown.getvalue())
    assert shares == [("1", "20.0"), ("3", "60.0"), ("5", "100.0")]


def test_the_table_has_rows_of_images_and_of_clips(loader: DeviceLoader, tmp_path: Path) -> None:
    trainer_of(loader, tmp_path, **BARE).run(Budget(steps=10), log_every=2, console=QUIET)
    with (tmp_path / METRICS_FILE).open(newline="") as file:
        rows = [(int(row["step"]), row["kind"]) for row in csv.DictReader(file)]
    assert rows == [(1, "images"), (3, "images"), (6, "clips"), (9, "images"), (10, "clips")]
