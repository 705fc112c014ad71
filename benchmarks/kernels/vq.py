"""Code assignment against the distance matrix of the published code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal
from kernels.vq import CodeTable, prepare

NEAR_TIE_TOL = 1e-6  # relative to the smallest distance


@delayed
def _make(
    generator: torch.Generator, rows: tuple[int, ...], codes: int, dim: int, duplicates: bool = False,
    length: float = 1.0, prepared: bool = False,
) -> Inputs:  # fmt: skip
    codebook = normal(generator, codes, dim)
    if duplicates:
        codebook[codes // 2 :] = codebook[: codes - codes // 2]
    codebook = length * F.normalize(codebook, dim=-1)
    return {
        "z": F.normalize(normal(generator, *rows, dim), dim=-1),
        "codebook": codebook,
        "table": prepare(codebook) if prepared else None,
    }


def distance_matrix(z: Tensor, codebook: Tensor, table: CodeTable | None) -> Tensor:
    """Run the published code: all squared distances, then the smallest."""
    rows = z.float().reshape(-1, z.shape[-1])
    codes = codebook.float()
    squares = rows.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * rows @ codes.T
    return squares.argmin(1).view(z.shape[:-1])


def compare(inputs: Inputs, found: Tensor) -> tuple[list[str], str]:
    """Require the index of a float64 search or of a near-tie; equal codes give the lowest."""
    z = inputs["z"].detach().double().reshape(-1, inputs["z"].shape[-1])
    codebook = inputs["codebook"].detach().double()
    wrong = near = 0
    for rows, chosen in zip(z.split(1024), found.reshape(-1).split(1024), strict=True):
        distances = (rows[:, None] - codebook).square().sum(-1).sqrt()
        best = distances.min(1).values
        first = (distances == best[:, None]).int().argmax(1)  # the lowest index among equals
        other = chosen != first
        gap = distances.gather(1, chosen[:, None])[:, 0] - best
        wrong += int((other & (gap >= NEAR_TIE_TOL * best)).sum()) + int((other & (gap == 0)).sum())
        near += int((other & (gap > 0)).sum())
    total = found.numel()
    return ([f"{wrong} of {total} indices are wrong"] if wrong else []), f"{near} near-ties of {total} differ"


def _bytes_of_distances(inputs: Inputs) -> int:
    return 4 * inputs["z"].numel() // inputs["z"].shape[-1] * inputs["codebook"].shape[0]


OPERATION = Operation(
    operator=kernels.vq_assign,
    checked=(
        Case("7 vectors, 5 codes", _make((7,), 5, 8)),
        Case("1x3x5x7, 1000 codes of 4", _make((1, 3, 5, 7), 1000, 4)),
        Case("duplicate codes", _make((2, 1, 16, 16), 512, 8, duplicates=True)),
        Case("short codes", _make((5, 100), 3000, 8, length=0.02)),
        Case("codes of 16", _make((333,), 2048, 16)),
        Case("codes of 32", _make((1025,), 8192, 32)),
        Case("16,384 vectors", _make((16, 1, 32, 32), 8192, 8)),
        Case("65,536 vectors", _make((64, 1, 32, 32), 8192, 8)),
    ),
    timed=(
        Case("16,384 vectors", _make((16, 1, 32, 32), 8192, 8), compiled=True),
        # as the compiled tokenizer calls it, with a codebook packed once
        Case("1,024 vectors, prepared", _make((1, 1, 32, 32), 8192, 8, prepared=True)),
        Case("16,384 vectors, prepared", _make((16, 1, 32, 32), 8192, 8, prepared=True)),
        Case("65,536 vectors, prepared", _make((64, 1, 32, 32), 8192, 8, prepared=True)),
    ),
    baselines={"distance matrix": distance_matrix},
    full_precision=frozenset({"codebook"}),
    compare=compare,
    scratch=_bytes_of_distances,
)
