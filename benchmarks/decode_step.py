"""`python -m benchmarks.decode_step`: time one decode step of the 650M language model in a CUDA graph on this GPU.

Random weights and caches; from the embedding to the logits, without the sampler. The floor is the time in which a copy
would move the step's bytes: weights, and keys and values of all rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import kernels
from benchmarks.measure import copy_rate, describe_machine, time_on_device
from kernels.runtime import jit
from kernels.thin_linear.reference import MIN_COUNTERS
from model.inference.graphs import capture_graph, on_stream

LAYERS, WIDTH, HEADS, VOCABULARY = 24, 1536, 16, 9193
POSITIONS, MEAN_LENGTH = 1026, 513
ROWS = (2, 8, 32, 64, 128)  # guided batches of 1, 4, 16, 32, 64
REPLAYS, RUNS = 20, 5


@dataclass(frozen=True)
class Product:
    """A weight with its bias; LayerNorm's are folded into it."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def draw(cls, columns: int, inner: int) -> Product:
        """Draw a product of N columns and K rows."""
        weight = torch.randn((columns, inner), device="cuda") * inner**-0.5
        weight = weight - weight.mean(1, keepdim=True)
        return cls(weight.bfloat16(), torch.randn(columns, device="cuda"))


@dataclass(frozen=True)
class Layer:
    """The products of one layer in the order of their use."""

    qkv: Product
    out: Product
    up: Product
    down: Product

    @classmethod
    def draw(cls) -> Layer:
        """Draw random weights."""
        shapes = (3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)
        return cls(*(Product.draw(*shape) for shape in shapes))


class Model:
    """The weights of the 650M model."""

    def __init__(self) -> None:
        self.layers = [Layer.draw() for _ in range(LAYERS)]
        self.head = Product.draw(VOCABULARY, WIDTH)

    @property
    def bytes(self) -> int:
        """Return the bytes of all weights."""
        products = [self.head, *(p for layer in self.layers for p in vars(layer).values())]
        return sum(p.weight.nbytes for p in products)


class Step:
    """One step of a number of rows at their mean length.

    Args:
        model: the weights.
        rows: R.
        cache_dtype: bfloat16 or float8_e4m3fn.
    """

    def __init__(self, model: Model, rows: int, cache_dtype: torch.dtype = torch.bfloat16) -> None:
        self.model, self.rows = model, rows
        shape = (2, rows, HEADS, POSITIONS, WIDTH // HEADS)
        self.caches = [torch.randn(shape, device="cuda", dtype=torch.bfloat16).to(cache_dtype) for _ in range(LAYERS)]
        self.slots = torch.arange(rows, device="cuda", dtype=torch.int32)
        self.lengths = torch.full_like(self.slots, MEAN_LENGTH)
        self.x = torch.randn((rows, WIDTH), device="cuda", dtype=torch.bfloat16)
        self.counters = torch.zeros(MIN_COUNTERS, device="cuda", dtype=torch.int32)

    def run(self) -> Tensor:
        """Return the logits (R, VOCABULARY)."""
        x, linear = self.x, partial(kernels.thin_linear, counters=self.counters)
        for layer, cache in zip(self.model.layers, self.caches, strict=True):
            qkv = linear(x, layer.qkv.weight, layer.qkv.bias, normed=True).view(self.rows, 3, HEADS, -1)
            attended = kernels.decode_attention(qkv, cache, self.slots, self.lengths, self.counters)
            x = linear(attended.flatten(1), layer.out.weight, layer.out.bias, x)
            hidden = linear(x, layer.up.weight, layer.up.bias, normed=True, gelu=True)
            x = linear(hidden, layer.down.weight, layer.down.bias, x)
        return linear(x, self.model.head.weight, self.model.head.bias, normed=True, full_precision=True)

    @property
    def bytes(self) -> int:
        """Return the bytes that a step cannot avoid: weights, keys and values."""
        one = self.caches[0]
        return self.model.bytes + LAYERS * 2 * self.rows * MEAN_LENGTH * WIDTH * one.element_size()


def graphed(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Return a replay of a call captured in a CUDA graph, and its output."""
    with torch.no_grad():
        with jit.compile_all():
            call()
        with on_stream(torch.cuda.Stream()):
            call()
        graph, out = capture_graph(call)
    return graph.replay, out


def main() -> None:
    """Time the step and print one line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="two for each guided sample")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("The decode step needs a GPU, and this machine has none.")
    print(describe_machine(), flush=True)
    copy = copy_rate()
    titles = ("rows", "cache", "ms a step (fastest-slowest)", "floor ms", "of floor", "TB/s", "s for 1,024 tokens")
    table = Table(*titles, title=f"a copy moves {copy / 1e12:.2f} TB/s here", box=None)
    torch.manual_seed(0)
    model = Model()
    for rows in arguments.rows:
        for dtype in (torch.bfloat16, torch.float8_e4m3fn):
            step = Step(model, rows, dtype)
            replay, _ = graphed(step.run)
            ms = time_on_device(replay, RUNS, REPLAYS)
            floor = step.bytes / copy * 1e3
            numbers = f"{floor:.3f}", f"{floor / ms.median:.0%}", f"{step.bytes / ms.median / 1e9:.2f}"
            spread = f"{ms.median:.3f} ({ms.low:.3f}-{ms.high:.3f})"
            table.add_row(str(rows), str(dtype).removeprefix("torch."), spread, *numbers, f"{1.024 * ms.median:.3f}")
            del step, replay
            torch.cuda.empty_cache()
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
