"""The compiled tokenizer on a GPU: time by shape, share of the roofline, memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Spread
from benchmarks.plots import draw
from benchmarks.rooflines import PUBLISHED
from kernels import compilations, use_backend
from model import CONFIGS, CompiledTokenizer, OmniTokenizer

CALLS = 10  # behind one another between two looks at the clock, as in a busy replica


@dataclass(frozen=True)
class Line:
    """Figures of one shape.

    Args:
        shape: batch, frames, side.
        encode, decode: milliseconds of a call, input and output copies on the device included.
        eager_encode, eager_decode: of the modules on torch's own operators.
        memory, eager_memory: bytes that encoding takes beyond weights and input.
    """

    shape: tuple[int, int, int]
    encode: Spread
    decode: Spread
    eager_encode: Spread
    eager_decode: Spread
    memory: int
    eager_memory: int


def run(config: str, runs: int, out: Path | None = None) -> list[Line]:
    """Print the table of shapes.

    Args:
        config: name in `model.CONFIGS`.
        runs: timed runs of each cell.
        out: folder, made if need be, for the figures as JSON and a plot of them.
    """
    compilations.watch()
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(CONFIGS[config]).cuda().eval().requires_grad_(False)
    tokenizer.encoder.to(torch.bfloat16)
    tokenizer.decoder.to(torch.bfloat16)
    start = time.perf_counter()
    compiled = CompiledTokenizer(tokenizer)
    lines = []
    for shape in PUBLISHED:
        compiled.capture((shape[1], shape[2], shape[2]), (shape[0],))
    ready, before = time.perf_counter() - start, compilations.count()
    for shape in PUBLISHED:
        lines.append(_line(tokenizer, compiled, shape, runs))
        torch.cuda.empty_cache()
    late = compilations.count() - before
    _print(config, lines)
    print(
        f"captured {len(PUBLISHED)} shapes in {ready:.1f} s; kernels compiled or loaded by then {before}, later {late}"
    )
    if out is not None:
        figures = {"config": config, "gpu": torch.cuda.get_device_name(), "ready": ready, "late": late}
        _write(out, figures | {"lines": [asdict(line) for line in lines]})
    return lines


def _write(folder: Path, figures: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"compiled-{figures['config']}.json"
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    partial.replace(path)
    draw(figures, path.with_suffix(".png"))


def _line(tokenizer: OmniTokenizer, compiled: CompiledTokenizer, shape: tuple[int, int, int], runs: int) -> Line:
    batch, frames, side = shape
    pixels = torch.randint(0, 256, (batch, frames, side, side, 3), dtype=torch.uint8, device="cuda")
    codes = compiled.encode(pixels)
    ours = _time(lambda: compiled.encode(pixels), runs), _time(lambda: compiled.decoding(codes), runs)
    memory = _peak(lambda: compiled.network.encode(pixels))
    with use_backend("sdpa"), torch.inference_mode():
        eager = (
            _time(lambda: tokenizer.encode(pixels), max(3, runs // 4)),
            _time(lambda: tokenizer.decode(codes), max(3, runs // 4)),
        )
        eager_memory = _peak(lambda: tokenizer.encode(pixels))
    return Line(shape, *ours, *eager, memory, eager_memory)


def _time(call: Callable[[], Any], runs: int) -> Spread:
    """Milliseconds of one call among several behind one another, by the device's clock."""
    times = []
    for number in range(runs + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(CALLS):
            call()
        end.record()
        end.synchronize()
        if number >= 2:
            times.append(start.elapsed_time(end) / CALLS)
    times.sort()
    return Spread(times[len(times) // 2], times[0], times[-1])


@torch.inference_mode()
def _peak(call: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _print(config: str, lines: Sequence[Line]) -> None:
    table = Table(title=f"{config}, bfloat16: milliseconds, median (fastest-slowest)")
    for column in ("shape", "encode", "of roofline", "decode", "of roofline", "torch encode", "torch decode",
                   "encode MB", "torch MB"):  # fmt: skip
        table.add_column(column, justify="right")
    for line in lines:
        shares = ["-", "-"]
        if config == "published":
            times = line.encode, line.decode
            shares = [f"{us / 1e3 / ms.median:.0%}" for us, ms in zip(PUBLISHED[line.shape], times, strict=True)]
        table.add_row(
            "x".join(map(str, line.shape)), str(line.encode), shares[0], str(line.decode), shares[1],
            str(line.eager_encode), str(line.eager_decode),
            f"{line.memory / 1e6:.0f}", f"{line.eager_memory / 1e6:.0f}",
        )  # fmt: skip
    Console(width=170).print(table)
