"""Both ends of a decode step: the newest token of each row goes in, the drawn one is stored."""

from kernels.decode_rows import op, reference
from kernels.decode_rows.reference import HEADER
from kernels.runtime.dispatch import Operator

read_rows = Operator("read_rows", reference.ReadArgs, reference.read_rows, triton=op.READ)
write_rows = Operator("write_rows", reference.WriteArgs, reference.write_rows, triton=op.WRITE)

__all__ = ["HEADER", "read_rows", "write_rows"]
