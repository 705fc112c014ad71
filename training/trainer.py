"""The loop of one stage: resumable, on a budget of steps or of seconds, on any number of ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
from training.data.loaders.draw import Draw, Feed, Kind
from training.distributed import Ranks
from training.errors import TrainingError
from training.logging import Journal
from training.losses.perceptual import Perceptual
from training.progress import line_of, progress_on
from training.recipes import Recipe, Stage
from training.schedule import Budget, check_shares, discriminator_rate, draws, learning_rate, phase_of
from training.signals import stop_requests
from training.state import Learner
from training.tokenizer.codebook import usage
from training.tokenizer.step import Phase, TrainingStep

LOG_EVERY = 50  # steps; each log waits for the device
SAVE_EVERY = 120.0  # seconds
COLUMNS = (
    "step", "kind", "seconds", "side", "psnr", "loss", "squared_error", "commitment", "kl", "perceptual",
    "image_adversarial", "image_features", "image_discriminator",
    "video_adversarial", "video_features", "video_discriminator",
    "gradient", "learning_rate", "usage", "perplexity", "steps_per_second",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """The state that a stage takes over.

    Args:
        tokenizer: with the stage's head, on its device.
        codebook: whether its codes were learned, so that the stage quantises from its first step.
        discriminators: weights of the stage before's.
        drawn: items of each kind that the run has drawn.
        history: sentences on what came before, for the model card.
    """

    tokenizer: OmniTokenizer
    codebook: bool = False
    discriminators: dict[str, Tensor] = field(default_factory=dict)
    drawn: dict[Kind, int] = field(default_factory=lambda: {"images": 0, "clips": 0})
    history: tuple[str, ...] = ()


class Trainer:
    """Trains one stage.

    Args:
        recipe: of the run.
        stage: one of its stages.
        start: what it begins with; a resumed stage needs the tokenizer's geometry alone.
        feed: gives the batches, on the tokenizer's device.
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
        start: Start,
        feed: Feed,
        out: Path,
        ranks: Ranks | None = None,
        perceptual: Perceptual | None = None,
        compiled: bool = True,
    ) -> None:
        self.recipe, self.stage, self.feed, self.out = recipe, stage, feed, out
        self.ranks = ranks or Ranks()
        check_shares(stage, self.ranks.world)
        self.learner = Learner(start.tokenizer, stage, recipe.seed, start.discriminators)
        self.device = self.learner.device
        self.train_step = TrainingStep(self.learner, stage, recipe.seed, self.ranks, perceptual)
        self.step, self.seconds = 0, 0.0
        self.drawn, self.before = dict(start.drawn), start.history
        self.started, self.plain = start.codebook, 0 if start.codebook else stage.plain
        self.budget: Budget | None = None  # known once the stage has begun
        self.journal: Journal | None = None
        if self.ranks.writes:
            out.mkdir(parents=True, exist_ok=True)
            self.journal = Journal(out)
        self.compiled = compiled
        self.call: Callable[[Tensor, Phase], dict[str, Tensor]] = self.train_step
        if self.device.type == "cuda":
            self.call = self._accelerated()

    def run(
        self,
        budget: Budget,
        stop_after: float = math.inf,
        save_every: float = SAVE_EVERY,
        log_every: int = LOG_EVERY,
        observe: Callable[[Trainer], None] | None = None,
        console: Console | None = None,
    ) -> bool:
        """Train until the budget is spent, or for `stop_after` more seconds.

        Args:
            budget: of the whole stage, resumed parts included, which all have the same.
            stop_after: seconds after which to save and return.
            save_every: seconds between checkpoints.
            log_every: steps between lines of the table.
            observe: called by rank 0 whenever a checkpoint was written.
            console: where progress is printed.

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
        if self.journal is not None:
            self.journal.rewind(self.step)
        if self.step == 0:
            self.save()  # what the stage took over is then on disk, and a full disk shows at once
        plan = draws(self.stage, self.recipe.seed, self.step, self.drawn, budget.steps)
        mine, ahead = tee(plan)
        batches = self.feed.stream(ahead)
        console = console or Console(stderr=True, quiet=not self.ranks.writes)
        begun = clock = saved = time.monotonic()
        logged = (self.step, clock)
        stopping = False
        with stop_requests() as stop, progress_on(console, self.step) as progress:
            while (share := budget.spent(self.step, self.seconds)) < 1 and not stopping:
                draw = next(mine)
                figures = self._step(draw, next(batches), share)
                now = time.monotonic()
                wanted = bool(stop) or now - begun >= stop_after
                stopping, self.seconds = self.ranks.agree(wanted, self.seconds + now - clock)
                clock = now
                if self.step % log_every == 0 or self.step == 1:
                    row = self._row(draw, figures, share)
                    row["steps_per_second"] = (self.step - logged[0]) / max(time.monotonic() - logged[1], 1e-9)
                    logged = (self.step, time.monotonic())
                    if self.journal is not None:
                        self.journal.training(row)
                    console.print(line_of(self.stage.name, row, share), highlight=False)
                progress(budget.spent(self.step, self.seconds), self.step)
                if clock - saved > save_every:
                    self._checkpoint(observe)
                    saved = time.monotonic()
        self._checkpoint(observe)
        return budget.spent(self.step, self.seconds) >= 1

    def save(self) -> None:
        """Write everything that the stage needs to go on; rank 0 does.

        Raises:
            TrainingError: a weight or a moment of an optimiser is not a number, or the file cannot be written; the last
                checkpoint stays.
        """
        if not self.ranks.writes:
            return
        if broken := self.learner.not_finite():
            raise TrainingError(
                f"{broken} is not finite at step {self.step}, so that {self.out} keeps its last checkpoint: "
                "lower the learning rate of the recipe"
            )
        state = {
            "recipe": self.recipe.to_dict(),
            "stage": self.stage.name,
            "budget": self.budget.to_dict() if self.budget else None,
            "step": self.step,
            "seconds": self.seconds,
            "drawn": dict(self.drawn),
            "plain": self.plain,
            "started": self.started,
            "history": list(self.before),
            "ranks": self.ranks.world,
            "learner": self.learner.state(),
        }
        write_checkpoint(self.out, state)

    def resume(self) -> None:
        """Go on from the stage's checkpoint.

        Raises:
            TrainingError: there is none, it is damaged, or it belongs to another format, recipe or stage.
        """
        state = read_checkpoint(self.out, self.recipe.to_dict(), self.stage.name)
        self.learner.restore(state["learner"])
        self.step, self.seconds, self.drawn = state["step"], state["seconds"], state["drawn"]
        self.plain, self.started, self.before = state["plain"], state["started"], tuple(state["history"])
        self.budget = Budget(**state["budget"]) if state["budget"] else None

    def _accelerated(self) -> Callable[[Tensor, Phase], dict[str, Tensor]]:
        if self.compiled:
            compile_blocks(self.learner.tokenizer)
        # collective operations of several ranks are left out of graphs
        return CapturedStep(self.train_step) if self.ranks.world == 1 else self.train_step

    def history(self) -> tuple[str, ...]:
        """Sentences on how the weights came about, this stage last."""
        return _history(self.before, self.stage.name, self.step, self.seconds, self.ranks.world)

    def _checkpoint(self, observe: Callable[[Trainer], None] | None) -> None:
        self.save()
        if observe is not None and self.ranks.writes:
            observe(self)

    def _step(self, draw: Draw, pixels: Tensor, share: float) -> dict[str, Tensor]:
        self.step += 1
        stage, step = self.stage, self.step
        rates = learning_rate(stage, step, share), discriminator_rate(stage, step, share)
        self.learner.set_clock(step, *rates)
        phase = phase_of(stage, step, self.plain)
        if phase.quantise and not self.started:
            self.train_step.start_codebook(pixels)
            self.started = True
        figures = self.call(pixels, phase)
        self.drawn[draw.kind] += draw.count
        return figures

    def _row(self, draw: Draw, figures: dict[str, Tensor], share: float) -> dict[str, Any]:
        """A line of the table: means over the ranks, the codebook's use since the line before."""
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"step": self.step, "kind": draw.kind, "seconds": round(self.seconds, 1), "side": draw.side}
        row["learning_rate"] = learning_rate(self.stage, self.step, share)
        values = torch.stack([figures[name] for name in figures])
        self.ranks.average_([values])
        row |= dict(zip(figures, values.tolist(), strict=True))
        if not math.isfinite(row["loss"]):
            raise TrainingError(f"the loss is {row['loss']} at step {self.step}: lower the learning rate of the recipe")
        row["psnr"] = float(decibels(row["squared_error"]))
        if self.learner.keeper is not None and self.started:
            used, perplexity = usage(self.learner.keeper.read_uses())
            row |= {"usage": float(used), "perplexity": float(perplexity)}
        return row


def finished(state: dict[str, Any], tokenizer: OmniTokenizer) -> Start:
    """Load the next stage's start from the checkpoint of a finished stage.

    Args:
        state: as `read_checkpoint` gives it.
        tokenizer: of that stage's geometry and head; receives its averaged weights.
    """
    learner = state["learner"]
    tokenizer.load_state_dict(learner["average"])
    told = _history(tuple(state["history"]), state["stage"], state["step"], state["seconds"], state["ranks"])
    return Start(tokenizer, state["started"], learner["discriminators"], state["drawn"], told)


def _history(before: tuple[str, ...], stage: str, steps: int, seconds: float, ranks: int) -> tuple[str, ...]:
    return (*before, f"stage {stage}: {steps:,} steps in {seconds:,.0f} s on {ranks} device{'s' * (ranks > 1)}")
