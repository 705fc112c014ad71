"""Table of the compiled tokenizer on a GPU: time by shape, share of the roofline, memory; torch.compile on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import Ceilings, Spread, time_on_device
from benchmarks.rooflines import SHAPES, Roofline, Shape, roofline, shape_name
from kernels import use_backend
from kernels.runtime import jit
from model.inference.graphs import Graphs
from model.inference.tokenizer import CompiledTokenizer
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer

CALLS_PER_RUN = 10  # back to back, as in a busy replica
COMPILE_MODE = "max-autotune-no-cudagraphs"  # the graph is captured here, as for our tokenizer
COLUMNS = tuple(f"{call}{by}" for by in ("", ", torch modules", ", torch.compile") for call in ("encode", "decode"))


@dataclass(frozen=True)
class Line:
    """The results of one shape.

    Args:
        shape: batch, frames, side.
        roofline: microseconds at the ceilings of the run.
        times: milliseconds of a call by name in `COLUMNS`: the compiled tokenizer's, including input and output
            copies on the device; the modules' on torch's operators; the modules' under torch.compile with backend
            "auto", in a CUDA graph, including copies; None if not requested or failed.
        memory, eager_memory: bytes that encoding takes beyond weights and input.
    """

    shape: Shape
    roofline: Roofline
    times: dict[str, Spread | None]
    memory: int
    eager_memory: int


def run(config: str, runs: int, ceilings: Ceilings, baseline: Sequence[Shape] = ()) -> None:
    """Print the table of shapes.

    Args:
        config: name in `model.tokenizer.config.CONFIGS`.
        runs: timed runs of each cell.
        ceilings: of this GPU, for the rooflines.
        baseline: shapes among `SHAPES` to time under torch.compile too; each compiles for minutes.
    """
    jit.count_compilations()
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(CONFIGS[config]).cuda().eval().requires_grad_(False)
    tokenizer.encoder.to(torch.bfloat16)
    tokenizer.decoder.to(torch.bfloat16)
    start = time.perf_counter()
    compiled = CompiledTokenizer(tokenizer)
    compiled.prepare((batch, frames, side, side) for batch, frames, side in SHAPES)
    for shape in SHAPES:
        compiled.capture((shape[1], shape[2], shape[2]), (shape[0],))
    ready, before = time.perf_counter() - start, jit.compilation_count()
    lines = [_line(tokenizer, compiled, shape, runs, ceilings) for shape in SHAPES]
    late = jit.compilation_count() - before
    # last, since kernels of torch.compile must not count as late
    for line in lines:
        if line.shape in baseline:
            line.times.update(_baselines(tokenizer, line.shape, runs))
    _print(config, ceilings, lines)
    print(f"captured {len(SHAPES)} shapes in {ready:.1f} s with {before} kernels; {late} kernels were compiled later")


def _pixels(shape: Shape) -> Tensor:
    batch, frames, side = shape
    return torch.randint(0, 256, (batch, frames, side, side, 3), dtype=torch.uint8, device="cuda")


def _line(tokenizer: OmniTokenizer, compiled: CompiledTokenizer, shape: Shape, runs: int, ceilings: Ceilings) -> Line:
    torch.cuda.empty_cache()
    pixels = _pixels(shape)
    codes = compiled.encode(pixels)
    times: dict[str, Spread | None] = dict.fromkeys(COLUMNS)
    times["encode"] = _time(lambda: compiled.encode(pixels), runs)
    times["decode"] = _time(lambda: compiled.decoding(codes), runs)
    memory = _peak(lambda: compiled.network.encode(pixels))
    with use_backend("torch"), torch.inference_mode():
        times["encode, torch modules"] = _time(lambda: tokenizer.encode(pixels), max(3, runs // 4))
        times["decode, torch modules"] = _time(lambda: tokenizer.decode(codes), max(3, runs // 4))
        eager_memory = _peak(lambda: tokenizer.encode(pixels))
    return Line(shape, roofline(tokenizer.config, shape, ceilings), times, memory, eager_memory)


def _baselines(tokenizer: OmniTokenizer, shape: Shape, runs: int) -> dict[str, Spread | None]:
    """Return the times of the modules under torch.compile."""
    pixels = _pixels(shape)
    with torch.inference_mode():
        codes = tokenizer.encode(pixels)
    decode = tokenizer.decode_checked
    return {
        "encode, torch.compile": _baseline(f"encode {shape_name(shape)}", tokenizer.encode, pixels, runs),
        "decode, torch.compile": _baseline(f"decode {shape_name(shape)}", decode, codes, runs),
    }


def _baseline(name: str, call: Callable[[Tensor], Tensor], example: Tensor, runs: int) -> Spread | None:
    """Compile a call, capture it and time it; print a failure and return None."""
    torch.cuda.empty_cache()
    start = time.perf_counter()
    try:
        tuned = torch.compile(call, dynamic=False, mode=COMPILE_MODE)
        graphs = Graphs(lambda x: (tuned(x),), None)
        # the stream context restores the current stream if a capture fails
        with use_backend("auto"), torch.cuda.stream(torch.cuda.current_stream()):
            graphs.capture(example)
        print(f"torch.compile, {name}: compiled and captured in {time.perf_counter() - start:.0f} s", flush=True)
        return _time(lambda: graphs(example), runs)
    except Exception as error:  # a failed baseline must not end the run
        print(f"torch.compile, {name}: could not be timed: {(str(error).splitlines() or [repr(error)])[0][:150]}")
        torch.cuda.synchronize()
        return None
    finally:
        torch._dynamo.reset()


def _time(call: Callable[[], Any], runs: int) -> Spread:
    return time_on_device(call, runs, CALLS_PER_RUN)


@torch.inference_mode()
def _peak(call: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _print(config: str, ceilings: Ceilings, lines: Sequence[Line]) -> None:
    table = Table(
        title=f"{config}, bfloat16: milliseconds, median (fastest-slowest), and share of the roofline, where {ceilings}"
    )
    for column in ("shape", *COLUMNS, "encode MB", "torch MB"):
        table.add_column(column, justify="right")
    for line in lines:
        cells = [
            "-" if spread is None else f"{spread}, {getattr(line.roofline, name[:6]) / 1e3 / spread.median:.0%}"
            for name, spread in line.times.items()
        ]
        memory = f"{line.memory / 1e6:.0f}", f"{line.eager_memory / 1e6:.0f}"
        table.add_row(shape_name(line.shape), *cells, *memory)
    Console(width=200).print(table)
