"""Two processes that share each batch train as one does: the same losses, weights and codebook statistics."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import unittest.mock
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from benchmarks.service.process import free_port
from model.tokenizer.tokenizer import OmniTokenizer
from training import gradients, runner
from training.budget import Budget
from training.checkpoint import CHECKPOINT_FILE
from training.data.loaders.device_loader import DeviceLoader
from training.data.shards import open_set
from training.distributed import Ranks, init_distributed
from training.recipes import RECIPES, Recipe
from training.runner import RunConfig, StartedStage, run_recipe
from training.tokenizer.head_transfer import with_head
from training.tokenizer.start import StageStart
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
STEPS = 20
gradients.BUCKET_BYTES = 2**14  # so that a step has several


def recipe_of(rule: str) -> Recipe:
    """Every part of a step within 20: no quantisation, quantisation, adversarial, revivals."""
    debug = RECIPES["debug"]
    joint = debug.stage("joint")
    stage = replace(
        joint, image_batch_size=8, clip_batch_size=4, batch_multiple=4, unquantized_steps=4, dead_code_steps=4,
        codebook_update=rule, learning_rate=1e-3, discriminators=replace(joint.discriminators, start=8),
    )  # fmt: skip
    return replace(debug, stages=(stage, replace(stage, name="kl", head="vae", gradient_accumulation_steps=2)))


def train(data: Path, out: Path, rule: str, head: str, ranks: Ranks, device: torch.device) -> Trainer:
    """Train a stage on this process's share."""
    recipe = recipe_of(rule)
    stage = next(stage for stage in recipe.stages if stage.head == head)
    sets = [[list(open_set(data / "train" / name).shards)] for name in ("photographs-256", "procgen-128")]
    loader = DeviceLoader(sets[0], sets[1], device, recipe.seed, ranks)
    torch.manual_seed(recipe.seed)
    start = StageStart(OmniTokenizer(with_head(recipe.tokenizer, head)))
    trainer = Trainer(recipe, stage, start.step(recipe, stage, ranks), loader, out, ranks)
    trainer.run(Budget(steps=STEPS), log_every=1, console=Console(quiet=True))
    return trainer


def start_ranks(world: int, arguments: list[str]) -> list[subprocess.Popen[str]]:
    """This file as `world` processes, with the environment that torchrun gives."""
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    return [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_ranks_train_as_one_with_twice_the_batch(data: Path, tmp_path: Path) -> None:
    runs = [("gradient", "vq"), ("ema", "vq"), ("gradient", "vae")]
    names = [f"{rule}-{head}" for rule, head in runs]
    processes = start_ranks(2, [str(data), str(tmp_path / "two"), *names])
    for (rule, head), name in zip(runs, names, strict=True):
        train(data, tmp_path / "one" / name, rule, head, Ranks(), torch.device("cpu"))
    output = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output

    for name in names:
        one, two = rows(tmp_path / "one" / name), rows(tmp_path / "two" / name)
        assert len(one) == len(two) == STEPS
        compared = 0
        for mine, theirs in zip(one, two, strict=True):
            for column in set(mine) - {"kind", "seconds", "steps_per_second"}:
                if mine[column] or theirs[column]:
                    assert float(theirs[column]) == pytest.approx(float(mine[column]), rel=1e-5, abs=1e-5), (
                        name,
                        column,
                        mine,
                    )
                    compared += 1
        assert compared > 10 * STEPS
        states = [torch.load(tmp_path / side / name / CHECKPOINT_FILE, weights_only=True) for side in ("one", "two")]
        assert states[0]["drawn"] == states[1]["drawn"]
        books = [state["state"]["codebook"] for state in states]
        if books[0] is not None:
            assert set(books[0]) >= {"last_used", "uses"}
            for key, value in books[0].items():
                np.testing.assert_allclose(books[1][key], value, atol=1e-5)

    # the signal went to rank 1 alone, after its fourth step; rank 0 writes for both
    stopped = torch.load(tmp_path / "two" / "stopped" / CHECKPOINT_FILE, weights_only=True)
    assert stopped["step"] == 4
    assert [f"stopped at {stopped['step']}" in text for text in output] == [True, True]


def test_rank_0_writes_no_checkpoint_until_all_ranks_have_built_their_steps(
    loader: DeviceLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that is late would take that checkpoint for one to resume, and begin from random weights."""
    events: list[str] = []

    class Noted(Ranks):
        def barrier(self) -> None:
            events.append("barrier")

    class Task:
        source = None
        adopt = staticmethod(lambda run, record: run)
        load = staticmethod(lambda waiting, device: None)

        def start(self, *arguments: Any) -> StartedStage:
            events.append("start")
            return StartedStage(unittest.mock.Mock(), {"images": 0, "clips": 0}, ())

    trainer = unittest.mock.Mock()
    trainer.run.side_effect = lambda *arguments: events.append("run")
    monkeypatch.setattr(runner, "Trainer", lambda *arguments: trainer)
    config = RunConfig("debug", RECIPES["debug"], tmp_path)
    run_recipe(config, Task(), loader, torch.device("cpu"), Noted(), console=Console(quiet=True))
    assert events[-3:] == ["start", "barrier", "run"]


def stop_one_rank(data: Path, out: Path, ranks: Ranks, device: torch.device) -> None:
    """Send rank 1 a SIGTERM in the middle of a long run."""

    def interrupted(trainer: Trainer, *arguments: Any) -> dict[str, Tensor]:
        metrics = take(trainer, *arguments)
        if ranks.rank == 1 and trainer.step == 4:
            signal.raise_signal(signal.SIGTERM)
        return metrics

    take = Trainer._step
    with unittest.mock.patch.object(Trainer, "_step", interrupted):
        trainer = train(data, out, "gradient", "vq", ranks, device)
    print(f"stopped at {trainer.step}")


if __name__ == "__main__":
    with init_distributed("cpu") as (ranks, device):
        for name in sys.argv[3:]:
            rule, head = name.split("-")
            train(Path(sys.argv[1]), Path(sys.argv[2]) / name, rule, head, ranks, device)
        stop_one_rank(Path(sys.argv[1]), Path(sys.argv[2]) / "stopped", ranks, device)
