"""Compilation of Triton kernels into the disk cache for a GPU that this machine does not have.

Calls run on CPU tensors that claim to be on the GPU. Launches compile and do not run, so results are undefined. The
process can do nothing else afterwards than compile for more GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.autotune import table
from kernels.runtime import jit

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class _NoProducts(TorchDispatchMode):
    """Torch's own matrix products return what was in memory: their time would be a CPU's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten" and func.overloadpacket.__name__ in PRODUCTS:
            shape = func(*(x.to("meta") if isinstance(x, torch.Tensor) else x for x in args), **(kwargs or {}))
            return torch.empty_like(shape, device="cpu")
        return func(*args, **(kwargs or {}))


@contextmanager
def absent_gpu(capability: tuple[int, int], name: str) -> Iterator[None]:
    """Compile the kernels of all calls inside, on all cores, and return when they are in Triton's cache.

    Args:
        capability: of the GPU, such as (9, 0).
        name: stem of its table of tiles, such as "h100".
    """
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
    from triton.runtime import JITFunction, driver  # type: ignore[import-untyped]

    number = 10 * capability[0] + capability[1]
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    JITFunction.run = compile_only
    torch.Tensor.is_cuda = property(lambda self: True)  # type: ignore[assignment]
    torch.cuda.get_device_capability = lambda index=None: capability  # type: ignore[assignment]
    table.current_gpu = lambda: name  # type: ignore[assignment]
    table._lookup.cache_clear()
    driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: number,  # one device for each capability, with kernels of its own
            get_current_stream=lambda device: 0,
            get_current_target=lambda: GPUTarget("cuda", number, 32),
        )
    )
    try:
        with torch.inference_mode(), _NoProducts(), jit.compile_all():
            yield
    finally:
        JITFunction.run = run
