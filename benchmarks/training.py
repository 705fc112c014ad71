"""Table of the training step at the published geometry: milliseconds, share of the ceiling, peak memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import device, matmul_rate, time_call
from benchmarks.tokenizer import count_flops
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from training.cuda_graphs import CapturedStep
from training.networks.lpips import load_perceptual
from training.recipes import Discriminators, LossWeights, Stage
from training.schedule import Phase
from training.tokenizer.state import TrainState
from training.tokenizer.step import TrainingStep

GENERATOR = Stage(name="generator", head="vq", steps=1, image_batch_size=8, losses=LossWeights(l1=1.0, l2=0.0))
"""The step of the published code: encoder, VQ, decoder, L1, backward, Adam."""

FULL = replace(
    GENERATOR,
    name="full",
    losses=replace(
        GENERATOR.losses, perceptual=1.0, perceptual_network="vgg", image_adversarial=0.1, feature_matching=1.0
    ),
    discriminators=Discriminators(),
)

CLIPS = replace(GENERATOR, name="generator-clips", image_batch_size=0, clip_batch_size=8)


def run(vgg: Path | None, runs: int) -> None:
    """Print one table of the CUDA device: each step eager, compiled, and compiled and captured.

    Args:
        vgg: weights of the perceptual network, from `omnitok data networks`; without them the full step is skipped.
        runs: timed runs of each cell.
    """
    ceiling = matmul_rate(torch.bfloat16)
    table = Table(title=f"training step, published geometry, bf16; matrix products reach {ceiling / 1e12:.0f} TFLOP/s")
    for column in ("step", "batch", "eager, ms", "compiled, ms", "captured too, ms", "of ceiling", "peak GB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    cases = [(GENERATOR, (8, 1, 256, 256)), (CLIPS, (8, 17, 128, 128))]
    if vgg is not None:
        cases.insert(1, (FULL, (8, 1, 256, 256)))
    for stage, shape in cases:
        table.add_row(stage.name, "x".join(map(str, shape)), *_row(stage, shape, vgg, runs, ceiling))
    Console(width=150).print(table)


def _row(stage: Stage, shape: tuple[int, ...], vgg: Path | None, runs: int, ceiling: float) -> list[str]:
    where = device()
    torch.manual_seed(0)
    fresh = OmniTokenizer(CONFIGS["published"]).to(where)
    pixels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, device=where)
    phase = Phase(quantise=True, adversarial=stage.adversarial, discriminate=stage.adversarial)

    def step_of(tokenizer: OmniTokenizer) -> TrainingStep:
        perceptual = load_perceptual(stage.losses.perceptual_network, vgg, where)
        state = TrainState(tokenizer, stage, seed=0)
        state.set_step(1, 1e-4, 1e-4)
        return TrainingStep(state, stage, 0, perceptual=perceptual)

    eager_step = _calls(step_of(copy.deepcopy(fresh)), pixels, phase)
    flops = count_flops(eager_step)
    eager = time_call(eager_step, runs)
    compiled = step_of(fresh)
    compiled.compile()
    compiled_time = time_call(_calls(compiled, pixels, phase), runs)
    captured = CapturedStep(compiled, compiled.device)
    for _ in range(4):
        captured(pixels, phase)
    torch.cuda.reset_peak_memory_stats()
    replayed = time_call(lambda: captured(pixels, phase), runs)
    peak = torch.cuda.max_memory_reserved() / 1e9
    share = flops / (replayed.median * 1e-3) / ceiling
    return [str(eager), str(compiled_time), str(replayed), f"{share:.0%}", f"{peak:.1f}"]


def _calls(step: TrainingStep, pixels: torch.Tensor, phase: Phase) -> Callable[[], object]:
    return lambda: step(pixels, phase)
