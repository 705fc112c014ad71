"""The process in which kernels are interpreted: Triton decides when a kernel is imported, so that it is a new one."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor


def new_process() -> ProcessPoolExecutor:
    """Return one process that runs functions with Triton's interpreter."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)


def _begin() -> None:
    os.environ |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
