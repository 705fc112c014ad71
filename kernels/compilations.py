"""Compilation of Triton kernels: how many a process has compiled or loaded, and many at once before it serves."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from kernels.hardware import HAS_TRITON

_seen: list[str] = []


def count() -> int:
    """Kernels since `watch` was first called; 0 where triton is not installed."""
    return len(_seen)


def watch() -> None:
    """Begin to count; again is harmless."""
    if not HAS_TRITON:
        return
    from triton import knobs  # type: ignore[import-untyped]

    if knobs.runtime.jit_post_compile_hook is None:
        knobs.runtime.jit_post_compile_hook = _note


def _note(*, repr: str, **rest: Any) -> None:
    _seen.append(repr)


@contextmanager
def together() -> Iterator[None]:
    """Within, kernels that would have to be compiled do not run; at the end all of them are, side by side on all cores.

    What such a kernel would have written is left as it was: results within are worth nothing. A kernel that does not
    compile is passed over here and raises where it is launched. Launches within are of one thread and the present GPU.
    """
    if not HAS_TRITON:
        yield
        return
    from triton import AsyncCompileMode, knobs

    missing: dict[str, Any] = {}

    def leave_out(*, fn: Any, compile: dict[str, Any], **rest: Any) -> bool:
        missing[compile["specialization_data"]] = fn.jit_function
        return True

    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = leave_out
    try:
        yield
    finally:
        knobs.runtime.jit_cache_hook = before
    # threads do: the passes of the compiler and the assembler run outside the interpreter's lock
    with ThreadPoolExecutor() as pool, AsyncCompileMode(pool, ignore_errors=True):
        for kernel, function in missing.items():
            function.preload(kernel)
