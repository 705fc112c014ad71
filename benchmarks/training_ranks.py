"""`torchrun --nproc-per-node N -m benchmarks.training_ranks [FILE]`: N GPUs against one, in speed and in losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.measure import Spread, describe_machine, time_call
from benchmarks.rows import RowFile
from benchmarks.training import CLIPS, GENERATOR
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from training.cuda_graphs import CapturedStep
from training.distributed import Ranks, init_distributed
from training.recipes import Stage
from training.tokenizer.state import TrainState
from training.tokenizer.step import TrainingStep

COMPARED_STEPS, RATE = 50, 1e-4
RUNS = 15
CASES = ((GENERATOR, (8, 1, 256, 256)), (CLIPS, (8, 17, 128, 128)))  # items of one rank


def main(out: Annotated[Path | None, typer.Argument(help="File of the rows, JSON.")] = None) -> None:
    """Print the rows from rank 0."""
    with init_distributed("cuda") as (ranks, device):
        if ranks.is_main:
            print(f"{describe_machine()}; {ranks.world} GPUs, published geometry, bf16, captured steps")
        table = RowFile(out)
        for stage, shape in CASES:
            alone = _times(stage, shape, Ranks(), device)
            ranks.barrier()
            together = _times(stage, shape, ranks, device)
            difference, noise = _compare(stage, shape, ranks, device)
            if ranks.is_main:
                table.add(
                    {
                        "step": stage.name,
                        "items a GPU": "x".join(map(str, shape)),
                        "one GPU, ms": str(alone),
                        f"{ranks.world} GPUs, ms": str(together),
                        "items/s, times": f"{ranks.world * alone.median / together.median:.2f}",
                        "largest difference of losses": f"{difference:.2%}",
                        "that of two halves on one GPU": f"{noise:.2%}",
                    }
                )


def _step(stage: Stage, ranks: Ranks, device: torch.device) -> TrainingStep:
    torch.manual_seed(0)
    state = TrainState(OmniTokenizer(CONFIGS["published"]).to(device), stage, seed=0)
    step = TrainingStep(state, replace(stage, unquantized_steps=0), 0, ranks, codebook_initialized=True)
    step.compile()
    return step


def _times(stage: Stage, shape: tuple[int, ...], ranks: Ranks, device: torch.device) -> Spread:
    step, pixels = _step(stage, ranks, device), torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, device=device)
    captured = CapturedStep(step, device)
    phase = step.prepare(pixels, 1, 0.0)
    for _ in range(4):
        captured(pixels, phase)
    return time_call(lambda: captured(pixels, phase), RUNS)


def _losses(stage: Stage, pixels: torch.Tensor, ranks: Ranks, device: torch.device) -> torch.Tensor:
    step = _step(stage, ranks, device)
    captured = CapturedStep(step, device)
    mine = pixels.chunk(ranks.world)[ranks.rank]
    losses = []
    for number in range(1, COMPARED_STEPS + 1):
        phase = step.prepare(mine, number, 0.0)
        step.state.set_step(number, RATE, RATE)
        losses.append(captured(mine, phase)["loss"].clone())
    found = torch.stack(losses)
    ranks.all_reduce_mean_([found])
    return found


def _compare(stage: Stage, shape: tuple[int, ...], ranks: Ranks, device: torch.device) -> tuple[float, float]:
    """Return how far the losses of ranks, and of two micro-batches, are at most from those of one whole batch."""
    draw = torch.Generator().manual_seed(1)
    coarse = torch.rand((ranks.world * shape[0], 3, shape[1], shape[2] // 16, shape[3] // 16), generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="trilinear")
    pixels = (255 * smooth).byte().movedim(1, -1).contiguous().to(device)
    together = _losses(stage, pixels, ranks, device)
    alone = _losses(stage, pixels, Ranks(), device)
    halves = _losses(replace(stage, gradient_accumulation_steps=2), pixels, Ranks(), device)
    ranks.barrier()
    return tuple(float(((other - alone).abs() / alone).max()) for other in (together, halves))  # type: ignore[return-value]


if __name__ == "__main__":
    typer.run(main)
