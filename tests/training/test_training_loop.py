"""The loop: it learns, it resumes to the same bits, it says what is wrong."""

from __future__ import annotations

import csv
import io
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from model import OmniTokenizer
from training.batches import Batches
from training.errors import TrainingError
from training.journal import METRICS_FILE
from training.recipes import RECIPES
from training.trainer import CHECKPOINT_FILE, Budget, Trainer, learning_rate

CPU = torch.device("cpu")
QUIET = Console(quiet=True)


def fresh(batches: Batches) -> Batches:
    return Batches(batches.photos, batches.clips, batches.side, CPU, seed=0)


def trainer_of(batches: Batches, out: Path, **changes: object) -> Trainer:
    return Trainer(replace(RECIPES["debug"], **changes), fresh(batches), out, CPU)


def error_of(trainer: Trainer) -> float:
    """Mean squared error of the trained weights on one fixed batch."""
    pixels = fresh(trainer.batches).images(16)
    with torch.inference_mode():
        restored = trainer.tokenizer.decode(trainer.tokenizer.encode(pixels)).float() / 255 - 0.5
    return float((restored - pixels).square().mean())


def test_training_lowers_the_error(batches: Batches, tmp_path: Path) -> None:
    trainer = trainer_of(batches, tmp_path)
    before = error_of(trainer)
    trainer.run(Budget(steps=150), console=QUIET)
    assert error_of(trainer) < 0.4 * before


def test_codes_stay_spread_once_quantisation_sets_in(batches: Batches, tmp_path: Path) -> None:
    trainer = trainer_of(batches, tmp_path)
    trainer.run(Budget(steps=100), console=QUIET)
    pixels = fresh(batches).images(32)
    with torch.inference_mode():
        assert len(trainer.average.encode(pixels).unique()) > 16  # of 64; a collapsed codebook uses one or two


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_trained_can_see_how_bright_a_patch_is(name: str) -> None:
    """A norm over each patch would hide its mean, and with it most of what a reconstruction has to get right."""
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(RECIPES[name].tokenizer)
    dark = torch.randint(20, 60, (1, 1, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        change = tokenizer.encode_latents(dark + 150) - tokenizer.encode_latents(dark)
    assert change.abs().max() > 0.01


def test_a_resumed_run_equals_one_that_never_stopped(batches: Batches, tmp_path: Path) -> None:
    whole = trainer_of(batches, tmp_path / "whole")
    assert whole.run(Budget(steps=45), console=QUIET)

    first = trainer_of(batches, tmp_path / "parts")
    for _ in range(17):  # stopped in the middle of everything: by the budget's schedule, not by its end
        for group in first.optimizer.param_groups:
            group["lr"] = learning_rate(first.recipe, first.step, first.step / 45)
        first._train_step()
    first.save()
    second = trainer_of(batches, tmp_path / "parts")
    second.resume()
    assert second.step == 17
    assert second.run(Budget(steps=45), console=QUIET)

    for mine, theirs in ((whole.tokenizer, second.tokenizer), (whole.average, second.average)):
        theirs_state = theirs.state_dict()
        assert all(torch.equal(value, theirs_state[name]) for name, value in mine.state_dict().items())
    assert torch.equal(whole.batches.state(), second.batches.state())


def test_sigterm_ends_the_run_with_a_checkpoint(batches: Batches, tmp_path: Path) -> None:
    trainer = trainer_of(batches, tmp_path, plain=0)
    trainer.keeper.update = lambda *args: signal.raise_signal(signal.SIGTERM)  # type: ignore[method-assign]
    assert not trainer.run(Budget(steps=1000), console=QUIET)
    assert trainer.step == 1
    later = trainer_of(batches, tmp_path, plain=0)
    later.resume()
    assert later.step == 1


def test_a_checkpoint_of_another_recipe_is_refused(batches: Batches, tmp_path: Path) -> None:
    trainer_of(batches, tmp_path).save()
    with pytest.raises(TrainingError, match="another recipe"):
        trainer_of(batches, tmp_path, commitment=0.5).resume()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 half a file"])
def test_a_damaged_checkpoint_is_named(batches: Batches, tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(TrainingError, match=str(tmp_path / CHECKPOINT_FILE)):
        trainer_of(batches, tmp_path).resume()


def test_there_must_be_a_checkpoint_to_resume(batches: Batches, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint"):
        trainer_of(batches, tmp_path).resume()


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(batches, tmp_path)
    trainer.save()
    kept = (tmp_path / CHECKPOINT_FILE).read_bytes()

    def full(state: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left"):
        trainer.save()
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == kept
    assert [path.name for path in tmp_path.glob("*.pt*")] == [CHECKPOINT_FILE]


def test_a_loss_that_is_no_number_ends_the_run(batches: Batches, tmp_path: Path) -> None:
    trainer = trainer_of(batches, tmp_path)
    with torch.no_grad():
        trainer.tokenizer.decoder.pixels.first.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1"):
        trainer.run(Budget(steps=5), console=QUIET)


@pytest.mark.parametrize("where", ["weight", "averaged weight", "moment"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_is_never_replaced_by_one_that_is_not_finite(
    batches: Batches, tmp_path: Path, where: str, value: float
) -> None:
    trainer = trainer_of(batches, tmp_path)
    trainer.run(Budget(steps=2), console=QUIET)
    kept = (tmp_path / CHECKPOINT_FILE).read_bytes()
    weight = trainer.tokenizer.decoder.pixels.first.bias
    broken = {
        "weight": weight,
        "averaged weight": trainer.average.decoder.pixels.first.bias,
        "moment": trainer.optimizer.state[weight]["exp_avg_sq"],
    }
    with torch.no_grad():
        broken[where][0] = value
    with pytest.raises(TrainingError, match="not finite at step 2"):
        trainer.save()
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == kept


def test_a_run_that_breaks_between_two_logs_shows_nobody_its_weights(batches: Batches, tmp_path: Path) -> None:
    trainer = trainer_of(batches, tmp_path, plain=0)
    seen: list[Trainer] = []

    def spoil(step: int, *_: object) -> None:
        if step == 2:
            trainer.average.decoder.pixels.first.bias.data.fill_(float("nan"))

    trainer.keeper.update = spoil  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="not finite at step 3"):
        trainer.run(Budget(steps=3), observe=seen.append, console=QUIET)
    assert not seen
    assert not (tmp_path / CHECKPOINT_FILE).exists()


def steps_told(out: Path) -> list[int]:
    with (out / METRICS_FILE).open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_run_that_crashed_past_its_checkpoint_tells_each_step_once(batches: Batches, tmp_path: Path) -> None:
    first = trainer_of(batches, tmp_path)
    first.budget = Budget(steps=110)
    for _ in range(60):
        first._train_step()
    first.save()
    row = {"kind": "images", "seconds": 1.0}
    for step in (1, 50, 100):  # it went on to step 100, and was killed while it wrote one row more
        first.journal.training({"step": step, **row})
    with first.journal.path.open("a") as file:
        file.write("1")
    second = trainer_of(batches, tmp_path)
    second.resume()
    second.journal.rewind(second.step)
    assert steps_told(tmp_path) == [1, 50]
    assert first.journal.path.read_bytes().endswith(b"\n")
    second.journal.training({"step": 100, **row})
    assert steps_told(tmp_path) == [1, 50, 100]


def test_a_run_that_begins_anew_tells_only_of_itself(batches: Batches, tmp_path: Path) -> None:
    """One that crashed before its first checkpoint leaves figures behind, and nothing to resume."""
    trainer_of(batches, tmp_path).journal.training({"step": 1, "kind": "images"})
    trainer_of(batches, tmp_path).run(Budget(steps=2), console=QUIET)
    assert steps_told(tmp_path) == [1]
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 2


def test_a_resumed_run_has_the_length_that_it_was_begun_with(batches: Batches, tmp_path: Path) -> None:
    trainer_of(batches, tmp_path).run(Budget(steps=40), stop_after=1e-6, console=QUIET)
    later = trainer_of(batches, tmp_path)
    later.resume()
    assert later.budget == Budget(steps=40)
    with pytest.raises(TrainingError, match="a run of 40 steps, not of 9 seconds"):
        later.run(Budget(seconds=9.0), console=QUIET)


def test_a_terminal_shows_how_far_a_run_is(batches: Batches, tmp_path: Path) -> None:
    shown = io.StringIO()
    trainer_of(batches, tmp_path).run(Budget(steps=3), console=Console(file=shown, force_terminal=True, width=120))
    assert re.search(r"step 3\b.*100\.0 %.*steps/s", shown.getvalue())


def test_pictures_smaller_than_a_window_are_refused(batches: Batches) -> None:
    with pytest.raises(TrainingError, match="too small"):
        Batches(batches.photos[:, :40, :40], batches.clips, batches.side, CPU, seed=0)


@pytest.mark.parametrize(("steps", "seconds"), [(None, None), (3, 4.0)])
def test_a_budget_is_one_of_two(steps: int | None, seconds: float | None) -> None:
    with pytest.raises(TrainingError, match="steps or seconds"):
        Budget(steps=steps, seconds=seconds)


@pytest.mark.parametrize("length", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_positive_and_finite(length: float) -> None:
    with pytest.raises(TrainingError, match="positive"):
        Budget(seconds=length)
