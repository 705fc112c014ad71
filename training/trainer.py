"""The loop of one stage: resumable, on a budget of steps or of seconds, on any number of ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from model.metrics.psnr import decibels
from model.tokenizer.tokenizer import OmniTokenizer
from training.checkpoint import read_checkpoint, write_checkpoint
from training.cuda_graphs import CapturedStep, compile_blocks
from training.data.loaders.batch import BatchSpec, Kind, Loader
from training.distributed import Ranks
from training.errors import TrainingError
from training.logging import MetricsLogger
from training.networks.lpips import FeatureDistance
from training.progress import format_row, progress_bar
from training.recipes import Recipe, Stage
from training.schedule import (
    Budget,
    Phase,
    batches_after,
    check_divisible,
    discriminator_learning_rate,
    learning_rate,
    phase_at,
)
from training.signals import stop_requests
from training.tokenizer.codebook import usage
from training.tokenizer.state import TrainState
from training.tokenizer.step import TrainingStep

LOG_EVERY_STEPS = 50  # each log waits for the device
SAVE_EVERY_S = 120.0
COLUMNS = (
    "step", "kind", "seconds", "resolution", "psnr", "loss", "squared_error", "commitment", "kl", "perceptual",
    "image_adversarial", "image_features", "image_discriminator",
    "video_adversarial", "video_features", "video_discriminator",
    "grad_norm", "learning_rate", "codebook_usage", "perplexity", "steps_per_second",
)  # fmt: skip


@dataclass(frozen=True)
class StageStart:
    """The state that a stage takes over.

    Args:
        tokenizer: with the stage's head, on its device.
        codebook_initialized: whether its codes were learned, so that the stage quantises from its first step.
        discriminators: weights of the stage before's.
        drawn: items of each kind that the run has drawn.
        history: sentences on what came before, for the model card.
    """

    tokenizer: OmniTokenizer
    codebook_initialized: bool = False
    discriminators: dict[str, Tensor] = field(default_factory=dict)
    drawn: dict[Kind, int] = field(default_factory=lambda: {"images": 0, "clips": 0})
    history: tuple[str, ...] = ()


class Trainer:
    """Trains one stage.

    Args:
        recipe: of the run.
        stage: one of its stages.
        start: what it begins with; a resumed stage needs the tokenizer's geometry alone.
        loader: gives the batches, on the tokenizer's device.
        out: folder of the stage: `checkpoint.pt`, `metrics.csv`, TensorBoard curves.
        ranks: the processes that train together.
        perceptual: the perceptual distance, where the stage has one.
        compiled: compile the transformer's blocks on a CUDA device, which takes half a minute for each shape of batch.

    Raises:
        TrainingError: TensorBoard is not installed, or a batch does not divide among the ranks.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        start: StageStart,
        loader: Loader,
        out: Path,
        ranks: Ranks | None = None,
        perceptual: FeatureDistance | None = None,
        compiled: bool = True,
    ) -> None:
        self.recipe, self.stage, self.loader, self.out = recipe, stage, loader, out
        self.ranks = ranks or Ranks()
        check_divisible(stage, self.ranks.world)
        self.state = TrainState(start.tokenizer, stage, recipe.seed, start.discriminators)
        self.device = self.state.device
        self.step, self.seconds = 0, 0.0
        self.drawn, self.earlier_history = dict(start.drawn), start.history
        self.codebook_initialized = start.codebook_initialized
        self.unquantized_steps = 0 if start.codebook_initialized else stage.unquantized_steps
        self.budget: Budget | None = None  # known once the stage has begun
        self.metrics_logger: MetricsLogger | None = None
        if self.ranks.is_main:
            out.mkdir(parents=True, exist_ok=True)
            self.metrics_logger = MetricsLogger(out)
        self.train_step = TrainingStep(self.state, stage, recipe.seed, self.ranks, perceptual)
        self.call: Callable[[Tensor, Phase], dict[str, Tensor]] = self.train_step
        if self.device.type == "cuda":
            if compiled:
                compile_blocks(self.state.tokenizer)
            if self.ranks.world == 1:  # collective operations of several ranks are left out of graphs
                self.call = CapturedStep(self.train_step, self.device)

    def run(
        self,
        budget: Budget,
        stop_after: float = math.inf,
        save_every: float = SAVE_EVERY_S,
        log_every: int = LOG_EVERY_STEPS,
        on_checkpoint: Callable[[Trainer], None] | None = None,
        console: Console | None = None,
    ) -> bool:
        """Train until the budget is spent, or for `stop_after` more seconds.

        Args:
            budget: of the whole stage, resumed parts included, which all have the same.
            stop_after: seconds after which to save and return.
            save_every: seconds between checkpoints.
            log_every: steps between rows of the table.
            on_checkpoint: called by rank 0 whenever a checkpoint was written.
            console: for progress.

        Returns:
            Whether the budget is spent. SIGINT and SIGTERM to any rank end the run early, with a checkpoint.

        Raises:
            TrainingError: the loss or a weight is no longer a number, a checkpoint cannot be written, or the stage that
                was resumed has another budget.
        """
        if self.budget is not None and budget != self.budget:
            # the learning rate has followed the first budget so far: it would jump
            raise TrainingError(f"{self.out} is a run of {self.budget}, not of {budget}: resume it with its own length")
        self.budget = budget
        if self.metrics_logger is not None:
            self.metrics_logger.rewind(self.step)
        if self.step == 0:
            self.save()  # what the stage took over is then on disk, and a full disk shows at once
        batches, loaded = tee(batches_after(self.stage, self.recipe.seed, self.step, self.drawn, budget.steps))
        pixels = self.loader.stream(loaded)
        console = console or Console(stderr=True, quiet=not self.ranks.is_main)
        begun = clock = saved = time.monotonic()
        logged = (self.step, clock)
        stopping = False
        with stop_requests() as stop, progress_bar(console, self.step) as show_progress:
            while (share := budget.spent(self.step, self.seconds)) < 1 and not stopping:
                batch = next(batches)
                metrics = self._step(batch, next(pixels), share)
                now = time.monotonic()
                stopping, self.seconds = self.ranks.agree(
                    bool(stop) or now - begun >= stop_after, self.seconds + now - clock
                )
                clock = now
                if self.step % log_every == 0 or self.step == 1:
                    row = self._row(batch, metrics, share)
                    row["steps_per_second"] = (self.step - logged[0]) / max(time.monotonic() - logged[1], 1e-9)
                    logged = (self.step, time.monotonic())
                    if self.metrics_logger is not None:
                        self.metrics_logger.log_step(row)
                    console.print(format_row(self.stage.name, row, share), highlight=False)
                show_progress(budget.spent(self.step, self.seconds), self.step)
                if clock - saved > save_every:
                    self._checkpoint(on_checkpoint)
                    saved = time.monotonic()
        self._checkpoint(on_checkpoint)
        return budget.spent(self.step, self.seconds) >= 1

    def save(self) -> None:
        """Write everything that the stage needs to go on; rank 0 does.

        Raises:
            TrainingError: a weight or a moment of an optimiser is not a number, or the file cannot be written; the last
                checkpoint stays.
        """
        if not self.ranks.is_main:
            return
        if broken := self.state.first_not_finite():
            raise TrainingError(
                f"{broken} is not finite at step {self.step}, so that {self.out} keeps its last checkpoint: "
                "lower the learning rate of the recipe"
            )
        checkpoint = {
            "recipe": self.recipe.to_dict(),
            "stage": self.stage.name,
            "budget": asdict(self.budget) if self.budget else None,
            "step": self.step,
            "seconds": self.seconds,
            "drawn": dict(self.drawn),
            "unquantized_steps": self.unquantized_steps,
            "codebook_initialized": self.codebook_initialized,
            "history": list(self.earlier_history),
            "ranks": self.ranks.world,
            "state": self.state.state_dict(),
        }
        write_checkpoint(self.out, checkpoint)

    def resume(self) -> None:
        """Go on from the stage's checkpoint.

        Raises:
            TrainingError: there is none, it is damaged, or it belongs to another format, recipe or stage.
        """
        saved = read_checkpoint(self.out, self.recipe.to_dict(), self.stage.name)
        self.state.load_state_dict(saved["state"])
        self.step, self.seconds, self.drawn = saved["step"], saved["seconds"], saved["drawn"]
        self.unquantized_steps = saved["unquantized_steps"]
        self.codebook_initialized = saved["codebook_initialized"]
        self.earlier_history = tuple(saved["history"])
        self.budget = Budget(**saved["budget"]) if saved["budget"] else None

    def history(self) -> tuple[str, ...]:
        """Return sentences on how the weights came about, this stage last."""
        return _history(self.earlier_history, self.stage.name, self.step, self.seconds, self.ranks.world)

    def _checkpoint(self, on_checkpoint: Callable[[Trainer], None] | None) -> None:
        self.save()
        if on_checkpoint is not None and self.ranks.is_main:
            on_checkpoint(self)

    def _step(self, batch: BatchSpec, pixels: Tensor, share: float) -> dict[str, Tensor]:
        self.step += 1
        stage, step = self.stage, self.step
        self.state.set_step(step, learning_rate(stage, step, share), discriminator_learning_rate(stage, step, share))
        phase = phase_at(stage, step, self.unquantized_steps)
        if phase.quantise and not self.codebook_initialized:
            self.train_step.initialize_codebook(pixels)
            self.codebook_initialized = True
        metrics = self.call(pixels, phase)
        self.drawn[batch.kind] += batch.count
        return metrics

    def _row(self, batch: BatchSpec, metrics: dict[str, Tensor], share: float) -> dict[str, Any]:
        """Return a row of the table: means over the ranks, the codebook's use since the row before."""
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"step": self.step, "kind": batch.kind, "seconds": round(self.seconds, 1), "resolution": batch.side}
        row["learning_rate"] = learning_rate(self.stage, self.step, share)
        values = torch.stack([metrics[name] for name in metrics])
        self.ranks.all_reduce_mean_([values])
        row |= dict(zip(metrics, values.tolist(), strict=True))
        if not math.isfinite(row["loss"]):
            raise TrainingError(f"the loss is {row['loss']} at step {self.step}: lower the learning rate of the recipe")
        row["psnr"] = float(decibels(row["squared_error"]))
        if self.state.codebook_updater is not None and self.codebook_initialized:
            used, perplexity = usage(self.state.codebook_updater.read_uses())
            row |= {"codebook_usage": float(used), "perplexity": float(perplexity)}
        return row


def start_after(checkpoint: dict[str, Any], tokenizer: OmniTokenizer) -> StageStart:
    """Load the next stage's start from the checkpoint of a finished stage.

    Args:
        checkpoint: as `read_checkpoint` gives it.
        tokenizer: of that stage's geometry and head; receives its averaged weights.
    """
    state = checkpoint["state"]
    tokenizer.load_state_dict(state["ema"])
    history = _history(*(checkpoint[key] for key in ("history", "stage", "step", "seconds", "ranks")))
    return StageStart(
        tokenizer, checkpoint["codebook_initialized"], state["discriminators"], checkpoint["drawn"], history
    )


def _history(before: tuple[str, ...], stage: str, steps: int, seconds: float, ranks: int) -> tuple[str, ...]:
    return (*before, f"stage {stage}: {steps:,} steps in {seconds:,.0f} s on {ranks} device{'s' * (ranks > 1)}")
