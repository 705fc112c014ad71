"""Programmatic dependent launch (PDL): a kernel starts while its predecessor still runs. Imports triton."""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_wait

from kernels.runtime.device import capability

PDL_MIN_CAPABILITY = (9, 0)


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """Wait for the writes of earlier kernels; must precede the first load."""
    if PDL:
        gdc_wait()


def pdl_options(x: Tensor) -> dict[str, bool]:
    """Return the launch options on x's device for a kernel that calls `wait_for_inputs`."""
    if x.is_cuda and capability(x.device.index) >= PDL_MIN_CAPABILITY:
        return {"PDL": True, "launch_pdl": True}
    return {"PDL": False}
