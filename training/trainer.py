"""The loop of one stage: resumable, on a budget of steps or of seconds, on any number of ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from training.budget import Budget
from training.checkpoint import read_checkpoint, write_checkpoint
from training.cuda_graphs import CapturedStep
from training.data.loaders.batch import BatchSpec, Kind, Loader
from training.distributed import Ranks
from training.errors import TrainingError
from training.logging import MetricsLogger
from training.progress import format_row, progress_bar
from training.recipes import AnyRecipe, AnyStage
from training.schedule import batches_after, check_divisible, learning_rate
from training.signals import StopRequests, stop_requests
from training.step import Step

LOG_EVERY_STEPS = 50  # each log waits for the device
SAVE_EVERY_S = 120.0


class Trainer:
    """Trains one stage.

    Args:
        recipe: of the run.
        stage: one of its stages.
        train_step: trains on a batch; it holds all that the stage changes.
        loader: gives the batches, on the step's device.
        out: folder of the stage: `checkpoint.pt`, `metrics.csv`, TensorBoard curves.
        ranks: the processes that train together.
        drawn: items of each kind that the run has drawn before.
        history: sentences on what came before, for the model card.

    Raises:
        TrainingError: TensorBoard is not installed, or a batch does not divide among the ranks.
    """

    def __init__(
        self,
        recipe: AnyRecipe,
        stage: AnyStage,
        train_step: Step,
        loader: Loader,
        out: Path,
        ranks: Ranks | None = None,
        drawn: dict[Kind, int] | None = None,
        history: tuple[str, ...] = (),
    ) -> None:
        self.recipe, self.stage, self.loader, self.out = recipe, stage, loader, out
        self.ranks = ranks or Ranks()
        check_divisible(stage, self.ranks.world)
        self.train_step, self.device = train_step, train_step.device
        self.step, self.seconds = 0, 0.0
        self.interrupted = False  # by a stop request to any rank
        self.drawn: dict[Kind, int] = drawn.copy() if drawn else {"images": 0, "clips": 0}
        self.earlier_history = history
        self.budget: Budget | None = None  # known once the stage has begun
        self.metrics_logger: MetricsLogger | None = None
        if self.ranks.is_main:
            out.mkdir(parents=True, exist_ok=True)
            self.metrics_logger = MetricsLogger(out)
        self.call: Callable[[Any, Any], dict[str, Tensor]] = train_step
        if self.device.type == "cuda":
            train_step.compile()  # half a minute for each shape of batch
            self.call = CapturedStep(train_step, self.device)

    def run(
        self,
        budget: Budget,
        stop_after: float = math.inf,
        save_every: float = SAVE_EVERY_S,
        log_every: int = LOG_EVERY_STEPS,
        on_checkpoint: Callable[[Trainer], None] | None = None,
        console: Console | None = None,
        validate: Callable[[Trainer], None] | None = None,
    ) -> bool:
        """Train until the budget is spent, or for `stop_after` more seconds.

        Args:
            budget: of the whole stage, resumed parts included, which all have the same.
            stop_after: seconds after which to save and return.
            save_every: seconds between checkpoints.
            log_every: steps between rows of the table; the first and the last step have one too. Where images and clips
                alternate, an even number is raised by one, so that both kinds have rows.
            on_checkpoint: called by rank 0 whenever a checkpoint was written.
            console: for progress.
            validate: called by rank 0 thereafter; a stop request ends it, and none begins after one.

        Returns:
            Whether the budget is spent. SIGINT and SIGTERM to any rank end the run early, with a checkpoint.

        Raises:
            TrainingError: the loss or a weight is no longer a number, a checkpoint cannot be written, or the stage that
                was resumed has another budget.
        """
        if self.budget is not None and budget != self.budget:
            # the learning rate has followed the first budget so far: it would jump
            raise TrainingError(
                f"{self.out} is a run of {self.budget}, not of {budget}: resume it with its own length."
            )
        self.budget = budget
        if self.metrics_logger is not None:
            self.metrics_logger.rewind(self.step)
        if self.step == 0:
            self.save()  # what the stage took over is then on disk, and a full disk shows at once
        batches, loaded = tee(batches_after(self.stage, self.recipe.seed, self.step, self.drawn, budget.steps))
        inputs = self.loader.stream(loaded)
        console = console or Console(stderr=True, quiet=not self.ranks.is_main)
        begun = clock = saved = time.monotonic()
        logged = (self.step, clock)
        log_every |= self.stage.alternates
        stopping = False
        with stop_requests() as stop:
            with progress_bar(console, self.step) as show_progress:
                while (share := self.spent) < 1 and not stopping:
                    batch = next(batches)
                    metrics = self._step(batch, next(inputs), share)
                    now = time.monotonic()
                    stopping, self.seconds = self.ranks.agree(
                        stop.received or now - begun >= stop_after, self.seconds + now - clock
                    )
                    clock = now
                    if self.step % log_every == 0 or self.step == 1 or self.spent >= 1:
                        row = self._row(batch, metrics, share)
                        row["steps_per_second"] = (self.step - logged[0]) / max(time.monotonic() - logged[1], 1e-9)
                        logged = (self.step, time.monotonic())
                        if self.metrics_logger is not None:
                            self.metrics_logger.log_step(row)
                        line = format_row(self.stage.name, row, self.spent, self.train_step.describe(row))
                        console.print(line, highlight=False)
                    show_progress(self.spent, self.step)
                    if clock - saved > save_every:
                        self._checkpoint(stop, on_checkpoint, validate)
                        saved = time.monotonic()
            self._checkpoint(stop, on_checkpoint, validate)
            self.interrupted, _ = self.ranks.agree(stop.received, self.seconds)
        return self.spent >= 1

    @property
    def spent(self) -> float:
        """Return the share of the budget that is used up."""
        return self.budget.spent(self.step, self.seconds) if self.budget is not None else 0.0

    def save(self) -> None:
        """Write everything that the stage needs to go on; rank 0 does.

        Raises:
            TrainingError: a weight or a moment of an optimiser is not a number, or the file cannot be written; the last
                checkpoint stays.
        """
        if not self.ranks.is_main:
            return
        if broken := self.train_step.first_not_finite():
            raise TrainingError(
                f"{broken} is not finite at step {self.step}, so that {self.out} keeps its last checkpoint: "
                "lower the learning rate of the recipe."
            )
        checkpoint = {
            "recipe": self.recipe.to_dict(),
            "stage": self.stage.name,
            "budget": asdict(self.budget) if self.budget else None,
            "step": self.step,
            "seconds": self.seconds,
            "drawn": dict(self.drawn),
            "history": list(self.earlier_history),
            "ranks": self.ranks.world,
        }
        write_checkpoint(self.out, checkpoint | self.train_step.state_dict())

    def resume(self) -> None:
        """Go on from the stage's checkpoint.

        Raises:
            TrainingError: there is none, it is damaged, or it belongs to another format, recipe or stage.
        """
        saved = read_checkpoint(self.out, self.recipe.to_dict(), self.stage.name, self.train_step.state_keys)
        self.train_step.load_state_dict(saved)
        self.step, self.seconds, self.drawn = saved["step"], saved["seconds"], saved["drawn"]
        self.earlier_history = tuple(saved["history"])
        self.budget = Budget(**saved["budget"]) if saved["budget"] else None

    def history(self) -> tuple[str, ...]:
        """Return sentences on how the weights came about, this stage last."""
        return stage_history(self.earlier_history, self.stage.name, self.step, self.seconds, self.ranks.world)

    def _checkpoint(
        self,
        stop: StopRequests,
        on_checkpoint: Callable[[Trainer], None] | None,
        validate: Callable[[Trainer], None] | None,
    ) -> None:
        self.save()
        if not self.ranks.is_main:
            return
        if on_checkpoint is not None:
            on_checkpoint(self)
        if validate is not None:
            stop.unless_stopped(lambda: validate(self))

    def _step(self, batch: BatchSpec, inputs: Any, share: float) -> dict[str, Tensor]:
        self.step += 1
        metrics = self.call(inputs, self.train_step.prepare(inputs, self.step, share))
        self.drawn[batch.kind] += batch.count
        return metrics

    def _row(self, batch: BatchSpec, metrics: dict[str, Tensor], share: float) -> dict[str, Any]:
        """Return a row of the table, whose metrics are means over the ranks."""
        row: dict[str, Any] = dict.fromkeys(self.train_step.columns)
        row |= {"step": self.step, "kind": batch.kind, "seconds": round(self.seconds, 1), "resolution": batch.side}
        row["learning_rate"] = learning_rate(self.stage, self.step, share)
        values = torch.stack([metrics[name] for name in metrics])
        self.ranks.all_reduce_mean_([values])
        row |= dict(zip(metrics, values.tolist(), strict=True))
        if not math.isfinite(row["loss"]):
            raise TrainingError(
                f"The loss is {row['loss']} at step {self.step}: lower the learning rate of the recipe."
            )
        return row | self.train_step.derived(row)


def stage_history(before: tuple[str, ...], stage: str, steps: int, seconds: float, ranks: int) -> tuple[str, ...]:
    """Return sentences on how weights came about, the last one on a stage."""
    return (*before, f"stage {stage}: {steps:,} steps in {seconds:,.0f} s on {ranks} device{'s' * (ranks > 1)}")
