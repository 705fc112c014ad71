"""When kernels are compiled: side by side before a process serves, in the background afterwards; for an absent GPU."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from ahead import compiled_for
from triton.compiler import CompilationError

from kernels import compilations
from kernels.norm import launch

X, ONES = torch.zeros(6, 64), torch.ones(64)
FAR = 60.0  # seconds; a kernel takes a fraction of one

pytestmark = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter takes the compiler's place")


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """What was launched; kernels of other tests are not known."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compilations, "_begun", set())
    compilations.watch()
    for kernel in (launch.layer_norm_kernel, launch.inverse_deviation_kernel):
        kernel.device_caches.clear()
    with compiled_for(90) as found:
        yield found


def norm(rows: int) -> None:
    launch.layer_norm(X, ONES, ONES, 1e-5, tile=launch.Tile(rows, 1))


def broken() -> None:
    launch.inverse_deviation(X, 1e-5, tile=launch.Tile(3, 1))  # rows must be a power of two


def wait_for(count: int) -> None:
    end = time.monotonic() + FAR
    while compilations.count() < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_kernels_compile_together(compiled):
    before = compilations.count()
    with compilations.together():
        for rows in (2, 4, 2):
            norm(rows)
        broken()
        assert (compilations.count() - before, set(compiled)) == (0, {None})
    assert compilations.count() - before == 2
    for rows in (2, 4):
        norm(rows)
    assert compilations.count() - before == 2
    with pytest.raises(CompilationError):  # triton 3.7 keeps it for whoever uses the kernel
        _ = broken(), compiled[-1].hash


def test_what_fails_within_leaves_no_trace(compiled):
    before = compilations.count()
    with pytest.raises(ZeroDivisionError), compilations.together():
        _ = norm(2), 1 // 0
    assert compilations.count() == before
    norm(2)
    assert compilations.count() == before + 1


@torch.library.custom_op("omnitok_tests::norm", mutates_args=())
def norm_op(x: torch.Tensor) -> torch.Tensor:
    norm(2)
    return x.clone()


def test_a_missing_kernel_is_refused_and_compiles_in_the_background(compiled):
    before = compilations.count()
    with pytest.raises(compilations.NotReadyError, match="layer_norm_kernel"), compilations.refused():
        norm_op(X)
    wait_for(before + 1)
    with compilations.refused():
        norm_op(X)
    assert compiled[-1].metadata.name == "layer_norm_kernel"
    assert compilations.count() == before + 1


def test_nobody_waits_and_nothing_compiles_twice(compiled):
    before = compilations.count()
    for _ in range(3):
        with compilations.together(wait=False):
            for rows in (2, 4):
                norm(rows)
    wait_for(before + 2)
    for thread in threading.enumerate():
        if thread.name == "compiling layer_norm_kernel":
            thread.join(FAR)
    assert compilations.count() == before + 2
    with compilations.refused():
        for rows in (2, 4):
            norm(rows)


def test_other_threads_compile_as_ever(compiled):
    before = compilations.count()
    with compilations.refused():
        other = threading.Thread(target=norm, args=(2,))
        other.start()
        other.join(FAR)
        assert compilations.count() == before + 1
        norm(2)
