"""Both ends of a decode step as custom operators, without a backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.decode_rows.reference import ReadArgs, WriteArgs
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import triton_unsupported
from kernels.runtime.dispatch import Implementation

read = launch_op("decode_rows.read_rows", ReadArgs, mutated="counts")
write = launch_op("decode_rows.write_rows", WriteArgs, mutated="memory")


@read.register_fake
def _(*flat: Any) -> Tensor:
    args = ReadArgs(*flat)
    return args.token_table.new_empty((len(args.slots), args.token_table.shape[1]))


@write.register_fake
def _(memory: Tensor, slots: Tensor, drawn: Tensor) -> Tensor:
    return slots.new_empty(slots.shape)


def _unsupported(memory: Tensor, slots: Tensor, *tensors: Tensor) -> str | None:
    if memory.dtype != torch.int32 or slots.dtype != torch.int32:
        return f"the memory and slots are {memory.dtype} and {slots.dtype}; they must be int32"
    if not all(x.is_contiguous() for x in (memory, slots, *tensors)):
        return "all tensors must be contiguous"
    return triton_unsupported(memory, dtypes=(torch.int32,))


def read_unsupported(args: ReadArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    tables = args.token_table, args.position_table
    return _unsupported(args.memory, args.slots, args.positions, args.counts, *tables) or triton_unsupported(
        *tables, differentiable=False
    )


def write_unsupported(args: WriteArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    return _unsupported(args.memory, args.slots, args.drawn)


READ = Implementation.of_op(read, read_unsupported)
WRITE = Implementation.of_op(write, write_unsupported)
