"""Table of encoding and decoding batches: milliseconds, frames per second, share of the matrix-product ceiling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Spread, device, matmul_rate, time_call
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer

SHAPES = {  # batch, frames, height, width
    "cuda": ((1, 1, 256, 256), (16, 1, 256, 256), (64, 1, 256, 256), (8, 17, 128, 128), (8, 17, 256, 256)),
    "cpu": ((1, 1, 128, 128), (1, 1, 256, 256), (8, 1, 128, 128), (1, 17, 128, 128)),
}
DTYPES = {"cuda": (torch.float32, torch.bfloat16), "cpu": (torch.float32,)}


def count_flops(call: Callable[[], Any]) -> int:
    """Return the FLOPs of the matrix products, attention and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def run(configs: Sequence[str], runs: int) -> None:
    """Print one table per precision.

    Args:
        configs: names in `model.CONFIGS`.
        runs: timed runs of each cell.
    """
    where = device()
    console = Console(width=150)
    for dtype in DTYPES[where.type]:
        ceiling = matmul_rate(dtype)
        table = Table(
            title=f"{str(dtype).removeprefix('torch.')}, matrix products reach {ceiling / 1e12:.2f} TFLOP/s here"
        )
        for column in ("config", "batch x frames x height x width", "encode ms", "decode ms", "frames/s", "of ceiling"):
            table.add_column(column, justify="left" if column == "config" else "right")
        for name in configs:
            torch.manual_seed(0)
            tokenizer = OmniTokenizer(CONFIGS[name]).to(where).eval().requires_grad_(False)
            tokenizer.encoder.to(dtype)
            tokenizer.decoder.to(dtype)
            for shape in SHAPES[where.type]:
                table.add_row(name, "x".join(map(str, shape)), *_row(tokenizer, shape, runs, ceiling))
        console.print(table)


@torch.inference_mode()
def _row(tokenizer: OmniTokenizer, shape: tuple[int, int, int, int], runs: int, ceiling: float) -> list[str]:
    pixels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, device=device())
    codes = tokenizer.encode(pixels)
    encode: Spread = time_call(lambda: tokenizer.encode(pixels), runs)
    decode: Spread = time_call(lambda: tokenizer.decode(codes), runs)
    seconds = 1e-3 * (encode.median + decode.median)
    flops = count_flops(lambda: tokenizer.decode(tokenizer.encode(pixels)))
    frames = shape[0] * shape[1] / seconds
    return [str(encode), str(decode), f"{frames:.0f}", f"{flops / seconds / ceiling:.0%}"]
