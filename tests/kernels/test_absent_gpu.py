"""Kernels compiled into a cache for a GPU that is not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import torch
import kernels
from kernels.runtime.absent_gpu import absent_gpu
with absent_gpu((9, 0), "h100"):
    x = torch.ones(6, 64, dtype=torch.bfloat16)
    kernels.layer_norm(x, torch.ones(64, dtype=torch.bfloat16), None)
    assert (x @ x.T).shape == (6, 6)
"""


def compile_into(cache: Path) -> dict[Path, int]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", CODE], check=True, env=environment, timeout=120)
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.cubin")}


def test_an_image_can_bring_kernels_for_a_gpu_that_its_builder_lacks(tmp_path: Path) -> None:
    first = compile_into(tmp_path)
    assert [path.name for path in first] == ["layer_norm_kernel.cubin"]
    assert next(iter(first)).read_bytes()[:4] == b"\x7fELF"
    assert "sm_90" in next(tmp_path.rglob("*.ptx")).read_text()
