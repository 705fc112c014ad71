"""Compilation of a bundle's kernels for a GPU that is not here, as an image is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kernels.runtime.absent_gpu import absent_gpu
from model.bundle import load_bundle
from model.inference.tokenizer import CompiledTokenizer
from service.engine.device import DTYPES
from service.engine.tokenizer import kernel_shapes, kernel_sizes, usual_batches
from service.types import Size

CAPABILITIES = {"a100": (8, 0), "h100": (9, 0), "h200": (9, 0)}


def compile_ahead(
    bundle: Path, gpu: str, dtype: str, sizes: Sequence[Size], batch_tokens: int, batch_requests: int
) -> None:
    """Compile what `Engine.warm_up` would on that GPU into Triton's cache.

    Args:
        bundle: folder of a tokenizer.
        gpu: a key of `CAPABILITIES`.
        dtype: precision.
        sizes, batch_tokens, batch_requests: as for `Engine.warm_up`.
    """
    tokenizer = load_bundle(bundle, "cpu", DTYPES[dtype]).tokenizer
    geometry = tokenizer.config.geometry
    usual = usual_batches(geometry, sizes, batch_tokens, batch_requests)
    with absent_gpu(CAPABILITIES[gpu], gpu):
        CompiledTokenizer(tokenizer).run_once(kernel_shapes(geometry, usual, kernel_sizes(geometry, sizes)))
