"""How many Triton kernels this process has compiled or loaded from disk: none should come while serving."""

from __future__ import annotations

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
