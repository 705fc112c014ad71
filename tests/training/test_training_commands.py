"""The commands, from data on disk to a bundle that loads, and the metrics of it."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from model.bundle import load_bundle
from model.metrics.psnr import psnr
from training import trainer
from training.__main__ import app
from training.data.shards import open_set
from training.logging import MetricsLogger

run = CliRunner()


def test_train_on_sets_for_seconds_pauses_resumes_and_writes_bundles(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()  # at the clock of the loop, whose steps take as long on any machine
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: 0.05 * next(looks)))
    out = tmp_path / "run"
    command = ["train", "debug", "--data", str(data), "--out", str(out), "--device", "cpu"]
    paused = run.invoke(app, [*command, "--seconds", "1.5", "--pause-after", "0.01"])
    assert paused.exit_code == 0, paused.output
    assert "of stage image; --resume goes on" in paused.output
    again = run.invoke(app, command)
    assert again.exit_code == 1
    assert "holds a run already" in again.output
    longer = run.invoke(app, [*command, "--resume", "--steps", "30"])
    assert longer.exit_code == 1
    assert "was begun as a run of 0.5 seconds, not of 10 steps" in longer.output
    finished = run.invoke(app, [*command, "--resume"])
    assert finished.exit_code == 0, finished.output

    for name in ("debug-vq", "debug-vae"):
        bundle = load_bundle(out / name)
        assert {weight.dtype for weight in bundle.tokenizer.parameters()} == {torch.float32}
        pixels = open_set(data / "held-out/camera-128").pixels()[:1]
        assert bundle.tokenizer.reconstruct(pixels).shape == pixels.shape
        assert "CREDITS.md" in (out / name / "README.md").read_text()
    watched = {path.name.partition("-")[2] for path in (out / "3-kl" / "samples").glob("*.png")}
    assert watched == {"photographs-128.png", "photographs-256.png", "camera-128.png", "procgen-128.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("debug --tokenizer a --held-out b", "The recipe of a tokenizer takes no --tokenizer and no --held-out."),
        ("lm-debug --from a --workers 2", "The recipe of a generator takes no --from and no --workers."),
    ],
)
def test_options_of_the_other_kind_of_recipe_are_refused(arguments: str, message: str) -> None:
    result = run.invoke(app, ["train", *arguments.split()])
    assert (result.exit_code, result.output) == (1, f"error: {message}\n")


def test_the_bundle_of_this_repository_restores_photographs() -> None:
    """The originals of the model card's picture, eight squares of 128 pixels four apart, were never trained on."""
    root = Path(__file__).parents[2]
    with Image.open(root / "docs/images/held-out-photographs.webp") as picture:
        sheet = torch.from_numpy(np.array(picture.convert("RGB")))
    originals = torch.stack([sheet[:128, left : left + 128] for left in range(0, 8 * 132, 132)])[:, None]
    bundle = load_bundle(root / "bundles/demo-vq")
    with torch.inference_mode():
        restored = bundle.tokenizer.reconstruct(originals)
    assert psnr(originals, restored).mean() > 22


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing"], "no recipe"),
        (["train", "debug", "--data", "EMPTY"], "does not exist"),
        (["train", "debug", "--data", "DATA", "--steps", "3", "--seconds", "4"], "steps or seconds"),
        (["train", "demo", "--stage", "image", "--data", "DATA", "--out", "EMPTY"], "No set of images has 128 pixels"),
        (["train", "debug", "--data", "DATA", "--steps", "0"], "positive"),
        (["train", "debug", "--data", "DATA", "--steps", "-3"], "positive"),
        (["train", "debug", "--data", "DATA", "--seconds", "0"], "positive"),
        (["train", "debug", "--data", "DATA", "--seconds", "-0.5"], "positive"),
        (["train", "debug", "--data", "DATA", "--seconds", "nan"], "positive"),
        (["train", "debug", "--data", "DATA", "--pause-after", "0"], "positive"),
        (["train", "debug", "--data", "DATA", "--device", "tpu0"], "no device 'tpu0'"),
        (["train", "debug", "--data", "DATA", "--device", "meta"], "no device 'meta'"),
        (["train", "debug", "--data", "DATA", "--device", "cuda:99"], "not in this machine"),
        (["train", "debug", "--resume", "--data", "DATA", "--out", "EMPTY"], "no run to resume"),
        (["train", "paper-imagenet-ucf", "--data", "DATA", "--perceptual-weights", "EMPTY"], "`omnitok data networks`"),
        (["data", "build", "imagenet"], "no data set"),
        (["data", "build", "demo", "--set", "train/nothing"], "no sets"),
        (["data", "build", "demo", "--scale", "-1"], "positive"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    arguments: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    places = {"EMPTY": str(tmp_path / "empty"), "DATA": str(data)}
    result = run.invoke(app, [places.get(argument, argument) for argument in arguments])
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_without_tensorboard_the_extra_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # makes its import fail, as where it is not installed
    result = run.invoke(app, ["train", "debug", "--data", str(data), "--out", str(tmp_path / "run"), "--steps", "3"])
    assert result.exit_code == 1
    assert "pip install -e '.[train]'" in result.output
    assert "Traceback" not in result.output


def test_a_table_that_cannot_be_written_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(metrics_logger: MetricsLogger, row: dict[str, object]) -> None:
        raise OSError(28, "No space left on device", str(metrics_logger.path))

    monkeypatch.setattr(MetricsLogger, "log_step", full)
    result = run.invoke(app, ["train", "debug", "--data", str(data), "--out", str(tmp_path / "run"), "--steps", "3"])
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert "metrics.csv" in result.output
    assert "Traceback" not in result.output


def test_a_recipe_may_train_on_the_data_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = run.invoke(app, ["train", "demo-fine", "--device", "cpu"])
    assert missing.exit_code == 1
    assert "data/demo does not exist: `omnitok data build demo` makes it." in " ".join(missing.output.split())
