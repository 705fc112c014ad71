"""A count of the kernels that warm-up missed."""

from __future__ import annotations

from kernels.runtime import jit


class LateKernels:
    """Triton kernels that this process compiles or loads after it is ready; make it before the first network runs."""

    def __init__(self) -> None:
        jit.count_compilations()
        self._kernels_when_ready: int | None = None

    def mark_ready(self) -> None:
        """Note that every network of the process has been warmed up."""
        self._kernels_when_ready = jit.compilation_count()

    @property
    def count(self) -> int:
        """Return the number of late kernels, 0 before the process is ready."""
        return 0 if self._kernels_when_ready is None else jit.compilation_count() - self._kernels_when_ready
