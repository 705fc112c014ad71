"""Sampling against a sort, and against argmax alone as the floor of one pass over the logits."""

from __future__ import annotations

import torch
from torch import Tensor

import kernels
from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal
from kernels.sample_tokens.reference import SampleArgs, sample_tokens


@delayed
def _make(
    generator: torch.Generator, rows: int, vocabulary: int, top_k: int, top_p: float, levels: float = 0.0
) -> Inputs:
    device = generator.device
    logits = 3 * normal(generator, 2 * rows, vocabulary)
    row = torch.arange(rows, device=device, dtype=torch.int32)

    def full(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((rows,), value, dtype=dtype, device=device)

    return {
        "logits": (logits * levels).round() / levels if levels else logits,
        "conditional": row,
        "unconditional": row + rows,
        "steps": row % 1024,
        "seeds": torch.randint(2**62, (rows,), generator=generator, device=device),
        "temperature": full(1.0),
        "top_k": full(top_k, torch.int32),
        "top_p": full(top_p),
        "guidance": full(2.5),
        "growth": full(0.0),
        "first_id": 1001 if vocabulary == 9193 else 0,
    }


def compare(inputs: Inputs, found: Tensor) -> tuple[list[str], str]:
    """Require the ids of the reference on the CPU, bit for bit."""
    moved: Inputs = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    wrong = int((sample_tokens(SampleArgs(**moved)) != found.cpu()).sum())
    return ([f"{wrong} of {found.numel()} ids differ"] if wrong else []), f"{found.numel()} ids agree"


def argmax(logits: Tensor, conditional: Tensor, **rest: object) -> Tensor:
    """Take the likeliest id, without anything else."""
    return logits[: len(conditional)].argmax(-1)


OPERATION = Operation(
    operator=kernels.sample_tokens,
    checked=(
        Case("3 rows, 37 ids, ties", _make(3, 37, 5, 0.9, levels=1.0)),
        Case("64 rows, 9,193 ids", _make(64, 9193, 2048, 1.0)),
        Case("64 rows, 9,193 ids, top-p", _make(64, 9193, 0, 0.9)),
        Case("200 rows, 8,293 ids, both", _make(200, 8293, 4096, 0.9)),
        Case("300 rows, 32,768 ids, ties", _make(300, 32_768, 100, 0.5, levels=8.0)),
    ),
    timed=(
        Case("1 row, top-k 2,048", _make(1, 9193, 2048, 1.0)),
        Case("1 row, top-k 4,096, top-p 0.9", _make(1, 9193, 4096, 0.9)),
        Case("64 rows, top-k 2,048", _make(64, 9193, 2048, 1.0), compiled=True),
    ),
    backends=("reference",),
    baselines={"argmax": argmax},
    full_precision=frozenset({"temperature", "top_p", "guidance", "growth"}),
    compare=compare,
)
