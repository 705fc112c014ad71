"""Choice of cuBLASLt's algorithm for a product that ends in GELU, by measured time, among those with torch's bits.

Replicas may choose differently, since times are noisy, and still agree. A recorded table would not do: algorithms are
opaque, their order and their bits may change with the library, and measuring takes a fraction of a second a shape.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from kernels.autotune.search import L2_FLUSH_BYTES, MAX_BUFFER_SETS, graph_clock, is_faster
from kernels.gelu_linear.cublaslt import DATA_TYPES, GeluProduct
from kernels.gelu_linear.library import Product, Shape, choices, may_choose, torch_product

log = logging.getLogger(__name__)
Call = tuple[Tensor, Tensor, Tensor]  # x (M, K), weight (N, K), bias (N,)
Clock = Callable[[Sequence[Callable[[], Tensor]]], float]


def choose_algorithm(shape: Shape, clock: Clock = graph_clock) -> None:
    """Choose the algorithm of all products of a shape, once; devices and dtypes without a choice keep torch's.

    Args:
        shape: of `library.gelu_linear`.
        clock: returns the microseconds of a call, given equal calls on different buffers.
    """
    if shape.device.type != "cuda" or shape.dtype not in DATA_TYPES or shape in choices or not may_choose():
        return
    choices[shape] = None  # where an error ends the search too
    try:
        choices[shape] = _search(shape, draw_calls(shape), clock)
    except (AttributeError, OSError, RuntimeError) as error:  # no such library, function or shape, or no memory
        log.warning("gelu_linear keeps torch's algorithm for %s: %s", shape, error)


def draw_calls(shape: Shape) -> list[Call]:
    """Return random calls whose weights and outputs exceed the L2; rows of x have magnitudes from 2^-8 to 2^8."""
    generator = torch.Generator(shape.device).manual_seed(0)  # its own: a search changes nobody's samples

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=shape.device)

    scales = torch.logspace(-8, 8, shape.rows, base=2, device=shape.device)[:, None]
    x = (normal(shape.rows, shape.inner) * scales).to(shape.dtype)
    call_bytes = shape.columns * (shape.inner + shape.rows) * shape.dtype.itemsize
    count = min(MAX_BUFFER_SETS, -(-L2_FLUSH_BYTES // call_bytes))
    return [
        (x, (normal(shape.columns, shape.inner) * shape.inner**-0.5).to(shape.dtype), normal(shape.columns).to(x.dtype))
        for _ in range(count)
    ]


def _search(shape: Shape, calls: Sequence[Call], clock: Clock) -> Product | None:
    product = GeluProduct(*shape)
    candidates = [partial(product, algorithm=algorithm) for algorithm in product.algorithms(calls[0][2])]

    def us(run: Product) -> float:
        return clock([partial(run, *call) for call in calls])

    number = fastest(candidates, torch_product, lambda candidate: _same_bits(candidate, calls), us)
    log.info("gelu_linear takes %s for %s.", "torch's algorithm" if number is None else f"algorithm {number}", shape)
    return None if number is None else candidates[number]


def fastest(
    candidates: Sequence[Product],
    default: Product,
    same_bits: Callable[[Product], bool],
    us: Callable[[Product], float],
) -> int | None:
    """Return the number of the fastest candidate with the default's bits; None where the default is as fast."""
    times = {number: us(candidate) for number, candidate in enumerate(candidates) if same_bits(candidate)}
    if not times:
        return None
    best = min(times, key=lambda number: times[number])
    if not is_faster(times[best], us(default)):
        return None
    before, after = us(default), us(candidates[best])  # a second round, since a GPU slows down as it heats
    log.info("gelu_linear: %.1f us in place of %.1f.", after, before)
    return best if is_faster(after, before) else None


def _same_bits(candidate: Product, calls: Sequence[Call]) -> bool:
    """Return whether a candidate gives torch's bits in every call; one that fails does not."""
    try:
        return all(
            torch.equal(candidate(*call).view(torch.int16), torch_product(*call).view(torch.int16)) for call in calls
        )
    except RuntimeError as error:
        log.debug("gelu_linear skips an algorithm: %s", error)
        return False
