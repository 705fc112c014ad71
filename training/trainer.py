"""The training loop: resumable, on a budget of steps or of seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from model import OmniTokenizer, VQHead
from training.batches import Batches
from training.codebook import CodebookKeeper
from training.errors import TrainingError
from training.journal import Journal
from training.losses import vq_step
from training.recipes import Recipe
from training.stopping import stop_requests

FORMAT = "omnitok-training/2"
CHECKPOINT_FILE = "checkpoint.pt"
LOG_EVERY = 50  # steps; each log waits for the device


@dataclass(frozen=True)
class Budget:
    """How long a run is: exactly one of the two is set. The learning rate follows the share that is spent.

    Args:
        steps: optimiser steps.
        seconds: time in the loop, all resumed parts together.

    Raises:
        TrainingError: neither or both are set, or the length is not positive and finite.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise TrainingError(
                f"a run is so many steps or seconds long, not steps={self.steps} and seconds={self.seconds}"
            )
        length = self.steps if self.steps is not None else self.seconds
        if length is None or not 0 < length < math.inf:
            raise TrainingError(f"the length of a run must be positive and finite, not {self}")

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} seconds"

    def spent(self, steps: int, seconds: float) -> float:
        """Share of the budget that is used up."""
        return steps / self.steps if self.steps is not None else seconds / (self.seconds or 1.0)


def learning_rate(recipe: Recipe, step: int, share: float) -> float:
    """Linear warm-up over the first steps, times a cosine to zero over the budget (section 4).

    Args:
        recipe: peak and warm-up.
        step: steps done.
        share: share of the budget that is spent.
    """
    warm = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class Trainer:
    """Trains one VQ tokenizer.

    Args:
        recipe: what is trained and how.
        batches: draws the data.
        out: folder of the run: `checkpoint.pt`, `metrics.csv`, TensorBoard curves.
        device: where.
        compile_blocks: compile the transformer's blocks.

    Raises:
        TrainingError: TensorBoard is not installed.
    """

    def __init__(
        self, recipe: Recipe, batches: Batches, out: Path, device: torch.device, compile_blocks: bool = False
    ) -> None:
        self.recipe, self.batches, self.out, self.device = recipe, batches, out, device
        torch.manual_seed(recipe.seed)
        self.tokenizer = OmniTokenizer(recipe.tokenizer).to(device)
        self.average = OmniTokenizer(recipe.tokenizer).to(device).requires_grad_(False)
        self.average.load_state_dict(self.tokenizer.state_dict())
        self.optimizer = torch.optim.Adam(
            self.tokenizer.parameters(), lr=recipe.learning_rate, betas=recipe.betas, fused=device.type == "cuda"
        )
        head, average_head = self.tokenizer.head, self.average.head
        assert isinstance(head, VQHead)
        assert isinstance(average_head, VQHead)
        self.keeper = CodebookKeeper(
            head.codebook, average_head.codebook, self.optimizer, recipe.revive_after, batches.generator
        )
        self.step, self.seconds = 0, 0.0
        self.budget: Budget | None = None  # known once the run has begun
        out.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(out)
        if compile_blocks:
            self._compile()

    def run(
        self,
        budget: Budget,
        stop_after: float = math.inf,
        save_every: float = 120.0,
        observe: Callable[[Trainer], None] | None = None,
        console: Console | None = None,
    ) -> bool:
        """Train until the budget is spent, or for `stop_after` more seconds.

        Args:
            budget: of the whole run, resumed parts included, which all have the same.
            stop_after: seconds after which to save and return.
            save_every: seconds between checkpoints.
            observe: called whenever a checkpoint was written.
            console: where progress is printed.

        Returns:
            Whether the budget is spent. SIGINT and SIGTERM end the run early, with a checkpoint.

        Raises:
            TrainingError: the loss or a weight is no longer a number, a checkpoint cannot be written, or the run that
                was resumed has another budget.
        """
        if self.budget is not None and budget != self.budget:
            # the learning rate has followed the first budget so far: it would jump
            raise TrainingError(f"{self.out} is a run of {self.budget}, not of {budget}: resume it with its own length")
        self.budget = budget
        self.journal.rewind(self.step)
        console = console or Console(stderr=True)
        begun = clock = saved = time.monotonic()
        logged_step, logged = self.step, clock
        with stop_requests() as stop, _progress(console) as progress:
            bar = progress.add_task("", total=1.0, step=self.step, rate=0.0)
            while (share := budget.spent(self.step, self.seconds)) < 1 and clock - begun < stop_after and not stop:
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(self.recipe, self.step, share)
                error, commitment, tokens = self._train_step()
                now = time.monotonic()
                self.seconds += now - clock
                clock = now
                if self.step % LOG_EVERY == 0 or self.step == 1:
                    row = self._row(error, commitment, tokens)
                    row |= {"rate": (self.step - logged_step) / max(time.monotonic() - logged, 1e-9)}
                    logged_step, logged = self.step, time.monotonic()
                    self.journal.training(row)
                    console.print(_line(row, share), highlight=False)
                    progress.update(bar, rate=row["rate"])
                progress.update(bar, completed=budget.spent(self.step, self.seconds), step=self.step)
                if clock - saved > save_every:
                    self.save()
                    saved = time.monotonic()
                    if observe is not None:
                        observe(self)
        self.save()
        if observe is not None:
            observe(self)
        return budget.spent(self.step, self.seconds) >= 1

    def save(self) -> None:
        """Write everything that the run needs to go on, under a temporary name first.

        Raises:
            TrainingError: a weight or a moment of the optimiser is no number, or the file cannot be written; the last
                checkpoint stays.
        """
        if broken := self._not_finite():
            raise TrainingError(
                f"{broken} is not finite at step {self.step}, so that {self.out} keeps its last checkpoint: "
                "lower the learning rate of the recipe"
            )
        state = {
            "format": FORMAT,
            "recipe": repr(self.recipe),
            "budget": asdict(self.budget) if self.budget else None,
            "tokenizer": self.tokenizer.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "last_used": self.keeper.last_used,
            "generator": self.batches.state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        fresh = self.out / f".{CHECKPOINT_FILE}.tmp"
        try:
            torch.save(state, fresh)
        except (OSError, RuntimeError) as error:  # a full disk
            fresh.unlink(missing_ok=True)
            raise TrainingError(f"{self.out} takes no checkpoint: {error}; the last one is whole") from error
        fresh.replace(self.out / CHECKPOINT_FILE)

    def resume(self) -> None:
        """Go on from the run's checkpoint.

        Raises:
            TrainingError: there is none, it is damaged, or it belongs to another format or recipe.
        """
        path = self.out / CHECKPOINT_FILE
        if not path.is_file():
            raise TrainingError(f"{path}: there is no checkpoint to resume from")
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in many ways
            raise TrainingError(f"{path} is no whole checkpoint: {error}".splitlines()[0]) from error
        if state.get("format") != FORMAT:
            raise TrainingError(f"{path} has the format {state.get('format')!r}, not {FORMAT!r}")
        if state["recipe"] != repr(self.recipe):
            raise TrainingError(f"{path} was written by another recipe: {state['recipe']}")
        self.tokenizer.load_state_dict(state["tokenizer"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.keeper.last_used.copy_(state["last_used"])
        self.batches.restore(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.budget = Budget(**state["budget"]) if state["budget"] else None

    def _not_finite(self) -> str | None:
        """Name of the first tensor of a checkpoint that holds an infinity or no number."""
        named = [("weight " + name, value) for name, value in self.tokenizer.state_dict().items()]
        named += [("averaged weight " + name, value) for name, value in self.average.state_dict().items()]
        for name, parameter in self.tokenizer.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            named += [(f"Adam's {kind} of {name}", value) for kind, value in moments.items()]
        # one transfer from the device, not one per tensor
        finite = torch.stack([value.isfinite().all().to(self.device) for _, value in named]).tolist()
        return next((name for (name, _), whole in zip(named, finite, strict=True) if not whole), None)

    def _train_step(self) -> tuple[Tensor, Tensor, Tensor]:
        self.step += 1
        pixels = self._draw()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            quantise = self.step > self.recipe.plain
            if self.step == self.recipe.plain + 1:
                self._start_codebook()
            # large images are rare: compiling their graphs would take longer than they do
            large = pixels.shape[2] > self.recipe.side
            with torch.compiler.set_stance("force_eager" if large else "default"):
                result = vq_step(self.tokenizer, pixels, self.recipe, quantise)
        self.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        nn.utils.clip_grad_norm_(self.tokenizer.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self._average()
        if quantise:
            self.keeper.update(self.step, result.tokens, result.vectors)
        return result.squared_error, result.commitment, result.tokens

    def _draw(self) -> Tensor:
        """Images in odd steps, clips in even ones (section 4: image and video data in turn)."""
        if self.step % 2 == 0:
            return self.batches.videos(self.recipe.clips)
        turn = self.recipe.large_every
        large = bool(turn) and (self.step // 2) % turn == turn - 1
        return self.batches.images(max(1, self.recipe.images // 4) if large else self.recipe.images, large)

    @torch.no_grad()
    def _start_codebook(self) -> None:
        head = self.tokenizer.head
        assert isinstance(head, VQHead)
        pixels = self.batches.images(self.recipe.images)
        self.keeper.start(head.project(self.tokenizer.encoder(pixels)).flatten(0, -2))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))  # the first weights are soon forgotten
        ours: list[Tensor] = list(self.average.parameters())
        theirs: list[Tensor] = list(self.tokenizer.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)

    def _row(self, error: Tensor, commitment: Tensor, tokens: Tensor) -> dict[str, Any]:
        mean = float(error)
        if not math.isfinite(mean):
            raise TrainingError(f"the loss is {mean} at step {self.step}: lower the learning rate of the recipe")
        return {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "kind": "clips" if self.step % 2 == 0 else "images",
            "psnr": -10 * math.log10(max(mean, 1e-12)),
            "commitment": float(commitment),
            "batch_codes": len(tokens.unique()),
        }

    def _compile(self) -> None:
        """Compile block by block: blocks of a kind share their code, so a shape is compiled three times, not 16."""
        torch._dynamo.config.recompile_limit = 64
        for part in (self.tokenizer.encoder, self.tokenizer.decoder):
            for stack in (part.spatial, part.temporal):
                for block in stack.blocks:
                    block.compile(dynamic=False)


def _progress(console: Console) -> Progress:
    """One line that follows the run on a terminal, below the lines of the log."""
    columns = (
        TextColumn("step {task.fields[step]}"), BarColumn(), TaskProgressColumn("{task.percentage:.1f} %"),
        TextColumn("{task.fields[rate]:.1f} steps/s"), TimeElapsedColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _line(row: dict[str, Any], share: float) -> str:
    return (
        f"step {row['step']:>6} {share:6.1%}  {row['kind']:>6} PSNR {row['psnr']:5.2f} dB  "
        f"commitment {row['commitment']:.4f}  codes in batch {row['batch_codes']}  {row['rate']:.1f} steps/s"
    )


def describe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON-ready data, for the model card."""
    return asdict(recipe) | {"tokenizer": recipe.tokenizer.to_dict()}
