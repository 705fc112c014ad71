"""The kernel of decode attention without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from absent_gpu import capability, on_gpu, refusal
from ahead import MAX_SHARED_BYTES, compiled_for, needs_compiler, spill_bytes

from kernels.decode_attention import decode_attention, launch
from kernels.decode_attention.reference import DecodeArgs

FLOAT8 = torch.float8_e4m3fn


def launch_one(rows: int, heads: int, dim: int, dtype: torch.dtype, positions: int = 1026) -> None:
    cache = torch.zeros(2, 1, heads, 1, dim, dtype=dtype).expand(2, 1, heads, positions, dim)
    rows_of = torch.zeros(rows, dtype=torch.int32)
    launch.decode_attention(DecodeArgs(torch.zeros(rows, 3, heads, dim).bfloat16(), cache, rows_of, rows_of))


@needs_compiler
@pytest.mark.parametrize(
    ("target", "dim", "dtype"),
    [
        (80, 96, torch.bfloat16),
        (90, 96, torch.bfloat16),
        (90, 96, FLOAT8),
        (90, 64, torch.bfloat16),
        (90, 256, torch.bfloat16),
    ],
    ids=str,
)
def test_kernel_compiles_ahead(target, dim, dtype):
    with compiled_for(target) as compiled:
        for rows in (2, 16, 32, 64, 128):
            launch_one(rows, 16, dim, dtype)
        launch_one(128, 16, dim, dtype, positions=5121)
    kinds = 5 if dtype == FLOAT8 else 3
    assert len({kernel.hash for kernel in compiled}) == kinds  # for any number of positions
    assert all(kernel.metadata.shared <= MAX_SHARED_BYTES[target] for kernel in compiled)
    assert {spill_bytes(kernel) for kernel in compiled} == {0}
    assert any(kernel.metadata.shared > 1024 for kernel in compiled)  # pipelines


@needs_compiler
@pytest.mark.parametrize(("rows", "early"), [(2, True), (16, False)])
def test_two_rows_load_positions_before_the_inputs_are_complete(rows, early):
    options = mock.patch.object(launch, "pdl_options", return_value={"PDL": True, "launch_pdl": True})
    with compiled_for(90) as compiled, options:
        launch_one(rows, 16, 96, torch.bfloat16)
    before, _ = compiled[0].asm["ptx"].split("griddepcontrol.wait")
    assert ("ld.global.cg.v4" in before) == early
    assert not spill_bytes(compiled[0])


@needs_compiler
def test_a_pipeline_that_would_take_too_much_memory_is_left_out():
    with compiled_for(80) as compiled:
        launch_one(32, 16, 120, torch.bfloat16)
    assert compiled[0].metadata.shared <= 1024


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls():
    def unsupported(dim: int = 96, slots: torch.dtype = torch.int32, **others) -> str | None:
        given = {
            "qkv": on_gpu(2, 3, 4, dim),
            "cache": on_gpu(2, 5, 4, 16, dim),
            "slots": on_gpu(2, dtype=slots),
            "lengths": on_gpu(2, dtype=torch.int32),
        }
        return refusal(decode_attention, **given | others)

    assert unsupported() is None
    assert "head_dim=100 must be a multiple of 8" in unsupported(100)
    assert "slots and lengths are torch.int64" in unsupported(slots=torch.int64)
    assert "the cache's torch.float16" in unsupported(cache=on_gpu(2, 5, 4, 16, 96, dtype=torch.float16))
    assert "the cache must be contiguous" in unsupported(cache=on_gpu(2, 5, 4, 96, 16).transpose(3, 4))
    assert "7 counters must be at least 1024" in unsupported(counters=on_gpu(7, dtype=torch.int32))
    float8 = on_gpu(2, 5, 4, 16, 96, dtype=FLOAT8)
    assert unsupported(cache=float8) is None
    with capability(8, 0):
        assert "a float8 cache needs compute capability 8.9" in unsupported(cache=float8)
    lengths = torch.zeros(2, dtype=torch.int32)
    cpu = decode_attention.explain(torch.zeros(2, 3, 4, 8), torch.zeros(2, 5, 4, 16, 8), lengths, lengths)
    assert (cpu.backend, cpu.refused) == ("torch", {"triton": "the tensors are on cpu, not on a GPU"})
