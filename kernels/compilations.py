"""Compilation of Triton kernels: many at once before a process serves, none that a caller waits for afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from kernels.hardware import HAS_TRITON

_seen: list[str] = []
_begun: set[str] = set()


class NotReadyError(RuntimeError):
    """A call needs a kernel that is not compiled yet; the message names it."""


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
def refused() -> Iterator[None]:
    """Within, a launch of this thread whose kernel is missing raises `NotReadyError`; it compiles in the background."""

    def refuse(*, repr: str, fn: Any, compile: dict[str, Any], **rest: Any) -> bool:
        _begin(compile["specialization_data"], fn.jit_function)
        raise NotReadyError(repr)

    with _asked(refuse):
        yield


@contextmanager
def together(wait: bool = True) -> Iterator[None]:
    """Within, launches of this thread whose kernels are missing do nothing; at the end all of these are compiled.

    What such a kernel would have written is left as it was: results within are worth nothing. Kernels are for the
    present GPU. One that does not compile is passed over here and raises where it is launched.

    Args:
        wait: compile side by side on all cores and return when all are ready; else in the background.
    """
    missing: dict[str, Any] = {}

    def leave_out(*, fn: Any, compile: dict[str, Any], **rest: Any) -> bool:
        missing[compile["specialization_data"]] = fn.jit_function
        return True

    with _asked(leave_out):
        yield
    if not missing:
        return
    if not wait:
        for kernel, function in missing.items():
            _begin(kernel, function)
        return
    from triton import AsyncCompileMode

    # threads do: the passes of the compiler and the assembler run outside the interpreter's lock
    with ThreadPoolExecutor() as pool, AsyncCompileMode(pool, ignore_errors=True):
        for kernel, function in missing.items():
            function.preload(kernel)


def _begin(kernel: str, function: Any) -> None:
    """Compile in the background for the present GPU, once: what fails would fail again."""
    if kernel in _begun:
        return
    _begun.add(kernel)
    gpu = torch.cuda.current_device() if torch.cuda.is_available() else -1

    def run() -> None:
        with torch.cuda.device(gpu):  # a thread begins on the first
            function.preload(kernel)

    threading.Thread(target=run, name=f"compiling {function.__name__}", daemon=True).start()


@contextmanager
def _asked(answer: Callable[..., bool]) -> Iterator[None]:
    """Within, `answer` is asked of each kernel that this thread would compile or load: True leaves the launch out."""
    if not HAS_TRITON:
        yield
        return
    from triton import knobs

    thread, before = threading.get_ident(), knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = lambda **what: threading.get_ident() == thread and answer(**what)
    try:
        yield
    finally:
        knobs.runtime.jit_cache_hook = before
