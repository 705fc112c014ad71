"""Ahead-of-time compilation of launches for an absent GPU."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

MAX_SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # of a program, by compute capability
needs_compiler = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter replaces the compiler")


def on_targets(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test that takes `target` and `dtype` for Ampere and Hopper, in bfloat16 and float32."""
    for names, values in (("dtype", [torch.bfloat16, torch.float32]), ("target", [80, 90])):
        test = pytest.mark.parametrize(names, values, ids=str)(test)
    return needs_compiler(test)


@contextmanager
def compiled_for(capability: int, cache: Path | None = None) -> Iterator[list[Any]]:
    """Compile kernels for a compute capability (90 is 9.0) instead of running them; yield them.

    Args:
        capability: of the absent GPU.
        cache: folder of compiled kernels, a temporary one by default.
    """
    compiled: list[Any] = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled.append(run(self, *args, grid=grid, warmup=True, **kwargs))
        return compiled[-1]

    absent = SimpleNamespace(
        get_current_device=lambda: capability,  # one device for each capability, with separate kernels
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    before = driver._active
    driver.set_active(absent)
    try:
        # a present GPU must not be used
        with (
            nullcontext(cache) if cache else tempfile.TemporaryDirectory() as folder,
            mock.patch.dict(os.environ, TRITON_CACHE_DIR=str(folder)),
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(torch.cuda, "is_available", return_value=False),
        ):
            yield compiled
    finally:
        driver._active = before


def spill_bytes(kernel: Any) -> int:
    """Return the stack bytes per thread of a compiled kernel: its spilled registers."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(kernel.asm["cubin"])
        binary.flush()
        call = [tool, "--dump-resource-usage", binary.name]
        listing = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", listing)[1])
