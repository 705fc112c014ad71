"""Table of encoding and decoding on the CPU: milliseconds, frames per second, share of the matrix-product ceiling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import matmul_rate, time_call
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer

SHAPES = ((1, 1, 128, 128), (1, 1, 256, 256), (8, 1, 128, 128), (1, 17, 128, 128))
"""The timed shapes: batch, frames, height, width."""


def count_flops(call: Callable[[], Any]) -> int:
    """Return the FLOPs of the matrix products, attention and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def run(configs: Sequence[str], runs: int) -> None:
    """Print the table, in float32.

    Args:
        configs: names in `model.tokenizer.config.CONFIGS`.
        runs: timed runs of each cell.
    """
    ceiling = matmul_rate(torch.float32, "cpu")
    table = Table(title=f"float32, matrix products reach {ceiling / 1e12:.2f} TFLOP/s here")
    for column in ("config", "batch x frames x height x width", "encode ms", "decode ms", "frames/s", "of ceiling"):
        table.add_column(column, justify="left" if column == "config" else "right")
    for name in configs:
        torch.manual_seed(0)
        tokenizer = OmniTokenizer(CONFIGS[name]).eval().requires_grad_(False)
        for shape in SHAPES:
            table.add_row(name, "x".join(map(str, shape)), *_row(tokenizer, shape, runs, ceiling))
    Console(width=150).print(table)


@torch.inference_mode()
def _row(tokenizer: OmniTokenizer, shape: tuple[int, int, int, int], runs: int, ceiling: float) -> list[str]:
    pixels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
    codes = tokenizer.encode(pixels)
    encode = time_call(lambda: tokenizer.encode(pixels), runs)
    decode = time_call(lambda: tokenizer.decode(codes), runs)
    seconds = 1e-3 * (encode.median + decode.median)
    flops = count_flops(lambda: tokenizer.decode(tokenizer.encode(pixels)))
    frames = shape[0] * shape[1] / seconds
    return [str(encode), str(decode), f"{frames:.0f}", f"{flops / seconds / ceiling:.0%}"]
