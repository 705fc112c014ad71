"""Whole runs of the debug recipe: from files to bundles that the service serves; killed, resumed; from any bundle."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import equal
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner, Result

from model.bundle import load_bundle, save_bundle
from model.bundle_files import WEIGHTS_FILE
from model.convert.omnitokenizer import load_published
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.engine.tokenizer import Engine
from service.in_process import LocalBackend
from service.settings import Settings
from training.__main__ import app
from training.data.loaders.batch import BatchSpec
from training.tokenizer.validation import Validator
from training.trainer import Trainer

GOLDEN = Path(__file__).parents[1] / "golden"
STAGES = ("1-image", "2-joint", "3-kl")
LENGTH = ["--steps", "120", "--log-every", "5"]


def train(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", "debug", "--device", "cpu", "--workers", "0", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = train("--data", files, "--out", out, *LENGTH)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def state_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def killed(folder: str, step: int, arguments: list[object]) -> int:
    """Train in a process of its own, which dies at a step of a stage, before anything of that step is kept."""
    child = os.fork()
    if child == 0:
        take = Trainer._step

        def dying(trainer: Trainer, spec: BatchSpec, pixels: Tensor, share: float) -> dict[str, Tensor]:
            metrics = take(trainer, spec, pixels, share)
            if (trainer.out.name, trainer.step) == (folder, step):
                os.kill(os.getpid(), signal.SIGKILL)
            return metrics

        Trainer._step = dying  # type: ignore[method-assign]
        os._exit(train(*arguments).exit_code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_run_that_is_killed_in_every_stage_ends_in_the_same_bits(files: Path, whole: Path, tmp_path: Path) -> None:
    out, choose = tmp_path / "killed", random.Random(0)
    arguments = ["--data", files, "--out", out, "--save-every", "0.2", *LENGTH]
    for number, folder in enumerate(STAGES):
        step = choose.randrange(2, 40)
        assert killed(folder, step, [*arguments, *(["--resume"] if number else [])]) == -signal.SIGKILL
        assert state_of(out / folder)["step"] < step
    assert "resume it" in train(*arguments).output
    assert train(*arguments, "--resume").exit_code == 0
    for folder in STAGES:
        assert equal(state_of(whole / folder), state_of(out / folder), ("seconds", "history")), folder
        assert len((out / folder / "metrics.csv").read_text().splitlines()) == 1 + 1 + 40 // 5
    for name in ("debug-vq", "debug-vae"):
        assert load_bundle(whole / name).hash == load_bundle(out / name).hash


def test_a_stop_request_after_a_stage_ends_the_run_there(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Validator, "__call__", lambda self, trainer: signal.raise_signal(signal.SIGINT))
    result = train("--data", files, "--out", tmp_path, "--steps", 3)
    assert result.exit_code == 0, result.output
    assert "stopped after stage image; --resume goes on" in result.output
    assert load_bundle(tmp_path / "1-image" / "bundle").config.is_vq
    assert not (tmp_path / "2-joint").exists()


def test_a_run_leaves_what_a_person_wants_to_see(whole: Path) -> None:
    for folder in STAGES:
        samples = sorted(path.name for path in (whole / folder / "samples").iterdir())
        assert [Path(name).suffix for name in samples] == [".png", ".webp", ".png"]
        with Image.open(whole / folder / "samples" / samples[1]) as moving:
            assert moving.n_frames == 5
        assert list((whole / folder / "tensorboard").iterdir())
    vq, vae = (load_bundle(whole / f"debug-{head}") for head in ("vq", "vae"))
    assert (vq.config.is_vq, vae.config.is_vq) == (True, False)
    assert vq.hash == load_bundle(whole / "2-joint" / "bundle").hash
    assert load_bundle(whole / "1-image" / "bundle").hash != vq.hash
    for bundle, terms in ((vq, "codebook (equation 1) 1"), (vae, "KL divergence (equation 2) 1e-06")):
        card = (whole / f"debug-{bundle.name[6:]}" / "README.md").read_text()
        assert "stage image: 40 steps" in card
        assert ("stage kl: 40 steps" in card) == (not bundle.config.is_vq)
        assert terms in card
        assert "None" not in card


async def test_the_service_serves_both_bundles(whole: Path, files: Path) -> None:
    engine = Engine([whole / "debug-vq", whole / "debug-vae"], "cpu", "float32", 1)
    engine.warm_up()
    backend = LocalBackend(engine.cards, engine.launch, Settings(bundles=()), _Uncounted())
    try:
        with Image.open(next((files / "images").rglob("*.png"))) as picture:
            pixels = np.asarray(picture.convert("RGB"))[None]
        for name in ("debug-vq", "debug-vae"):
            served = (await backend.reconstruct(name, pixels)).pixels
            with torch.inference_mode():
                own = load_bundle(whole / name).tokenizer.reconstruct(torch.from_numpy(pixels.copy())[None])
            np.testing.assert_array_equal(served, own[0].numpy())
            assert np.abs(served.astype(int) - pixels).mean() < 40
    finally:
        backend.close()


class _Uncounted:
    """Takes the service's metrics and keeps none."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def test_what_is_done_is_not_done_again(files: Path, copy: Path) -> None:
    shutil.rmtree(copy / "3-kl")
    before = (copy / "2-joint" / "checkpoint.pt").stat().st_mtime_ns
    output = train("--data", files, "--out", copy, "--stage", "kl", "--steps", "3")
    assert output.exit_code == 0, output.output
    assert state_of(copy / "3-kl")["step"] == 3
    again = train("--data", files, "--out", copy)
    assert again.exit_code == 0, again.output
    assert again.output.count("is done") == 3
    assert (copy / "2-joint" / "checkpoint.pt").stat().st_mtime_ns == before


def test_a_stage_that_is_not_done_has_the_bundle_of_its_last_checkpoint(files: Path, tmp_path: Path) -> None:
    arguments = ["--data", files, "--out", tmp_path / "run"]
    assert train(*arguments, *LENGTH, "--pause-after", "0.000001").exit_code == 0
    latest = tmp_path / "run" / "1-image" / "latest"
    assert "stage image: 1 steps" in (latest / "README.md").read_text()
    ema = state_of(latest.parent)["state"]["ema"]
    assert all(torch.equal(value, ema[name].half()) for name, value in load_file(latest / WEIGHTS_FILE).items())
    assert train(*arguments, "--resume", "--stage", "image").exit_code == 0
    assert load_bundle(latest.with_name("bundle")).config.is_vq
    assert not latest.exists()


def test_a_codebook_that_was_never_started_is_not_taken_over(files: Path, tmp_path: Path) -> None:
    for stage, length in (("image", 3), ("joint", 2)):
        result = train("--data", files, "--out", tmp_path, "--stage", stage, "--steps", length)
        assert result.exit_code == 0, result.output
    image, joint = (state_of(tmp_path / folder) for folder in STAGES[:2])
    assert (image["codebook_initialized"], joint["codebook_initialized"]) == (False, True)
    assert int(joint["state"]["codebook"]["last_used"].min()) == 1  # every code was placed then


def test_kl_fine_tuning_begins_close_to_what_was_learned(whole: Path) -> None:
    """A stage's first step is measured before it changes anything."""
    for folder in ("2-joint", "3-kl"):
        first = (whole / folder / "metrics.csv").read_text().splitlines()[:2]
        row = dict(zip(*(line.split(",") for line in first), strict=True))
        last = (whole / STAGES[STAGES.index(folder) - 1] / "metrics.csv").read_text().splitlines()
        images = [dict(zip(last[0].split(","), line.split(","), strict=True)) for line in last[1:]]
        before = np.mean([float(line["psnr"]) for line in images[-4:] if line["kind"] == "images"])
        assert float(row["psnr"]) > before - 4


@pytest.mark.parametrize("stage", ["joint", "kl"])
@pytest.mark.parametrize("head", ["vq", "vae"])
def test_a_stage_begins_from_a_bundle_of_either_head(
    files: Path, whole: Path, tmp_path: Path, stage: str, head: str
) -> None:
    out = tmp_path / "tuned"
    arguments = ["--data", files, "--out", out, "--stage", stage, "--steps", "3", "--from", whole / f"debug-{head}"]
    result = train(*arguments)
    assert result.exit_code == 0, result.output
    (folder,) = out.glob("?-*")
    state = state_of(folder)
    assert (state["step"], state["codebook_initialized"]) == (3, stage == "joint")
    assert state["history"][0].startswith(
        f"begun from the bundle debug-{head}, {load_bundle(whole / f'debug-{head}').hash[:12]}"
    )
    bundle = load_bundle(folder / "bundle")
    assert bundle.config.is_vq == (stage == "joint")
    assert bundle.config.width == CONFIGS["debug"].width


def test_a_converted_published_checkpoint_can_be_tuned(files: Path, tmp_path: Path) -> None:
    tokenizer, _ = load_published(GOLDEN / "vq_rope.ckpt")
    save_bundle(tmp_path / "published", tokenizer, "Converted.")
    result = train(
        "--data", files, "--out", tmp_path / "out", "--stage", "kl", "--steps", "2", "--from", tmp_path / "published"
    )
    assert result.exit_code == 0, result.output
    tuned = load_bundle(tmp_path / "out" / "debug-vae").config
    assert (tuned.width, tuned.temporal_order, tuned.is_vq) == (tokenizer.config.width, "published", False)
    assert tuned.head.dim == tokenizer.config.head.dim


def test_a_folder_holds_one_run(files: Path, copy: Path, whole: Path, tmp_path: Path) -> None:
    record = json.loads((copy / "run.json").read_text())
    record["recipe"]["seed"] = 5
    (copy / "run.json").write_text(json.dumps(record))
    assert "a run of another recipe" in train("--data", files, "--out", copy).output
    (copy / "run.json").write_text("{")
    assert "is damaged" in train("--data", files, "--out", copy).output
    record["format"] = "omnitok-run/99"
    for other_format in ([], record):
        (copy / "run.json").write_text(json.dumps(other_format))
        assert "does not describe a run of format" in train("--data", files, "--out", copy).output
    other = tmp_path / "other"
    save_bundle(other, OmniTokenizer(CONFIGS["debug"]), "Random.")
    (copy / "run.json").write_text(json.dumps(json.loads((whole / "run.json").read_text()) | {"source": "f" * 64}))
    (copy / "3-kl" / "bundle" / "config.json").unlink()
    refused = train("--data", files, "--out", copy, "--resume", "--from", other)
    assert refused.exit_code == 1
    assert "was begun from bundle ffffffffffff" in refused.output


def test_what_stops_a_run_is_said_in_one_sentence(files: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases: list[tuple[list[object], str]] = [
        (["--resume"], "holds no run to resume"),
        (["--stage", "joint"], "begins from a bundle or from stage image"),
        (["--stage", "video"], "known are image, joint, kl"),
        (["--from", tmp_path / "nothing"], "is not a bundle"),
    ]
    for arguments, message in cases:
        result = train("--data", files, "--out", out, *arguments)
        assert result.exit_code == 1, arguments
        assert re.sub(r"\s+", " ", message) in re.sub(r"\s+", " ", result.output)
        assert "Traceback" not in result.output
    paused = train("--data", files, "--out", out, "--pause-after", "0.000001", *LENGTH)
    assert paused.exit_code == 0
    assert "stopped at step 1 of stage image; --resume goes on" in paused.output
    longer = train("--data", files, "--out", out, "--resume", "--steps", "9")
    assert longer.exit_code == 1
    assert "was begun as a run of 40 steps, not of 3 steps" in longer.output
