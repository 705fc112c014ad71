"""Choice of an operator's implementation: an argument, a context manager or `OMNITOK_KERNELS`, in that order.

`triton` is this project's kernels, `torch` torch's fused library calls, `reference` the readable definition. `auto`
takes the first of these that supports the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from typing import Any, Generic, ParamSpec, TypeVar

from torch import Tensor

from kernels.runtime.constant import constant_in_graphs

P = ParamSpec("P")
A = TypeVar("A", bound=tuple[Any, ...])

BACKENDS = ("auto", "triton", "torch", "reference")
RENAMED_BACKENDS = {"sdpa": "torch"}
BACKEND_ENV = "OMNITOK_KERNELS"

_requested: ContextVar[str | None] = ContextVar("omnitok_kernels", default=None)


class BackendUnavailableError(RuntimeError):
    """A requested backend that does not exist or cannot run the call."""


@dataclass(frozen=True)
class Implementation(Generic[A]):
    """A faster implementation of an operator.

    Args:
        run: takes the operator's arguments as one NamedTuple.
        unsupported: returns why it cannot run a call, or None.
        not_preferred: returns why `auto` skips it although it can run the call, or None.
    """

    run: Callable[[A], Tensor]
    unsupported: Callable[[A], str | None] = lambda args: None
    not_preferred: Callable[[A], str | None] = lambda args: None

    @classmethod
    def of_op(
        cls,
        op: Callable[..., Any],
        unsupported: Callable[[A], str | None] = lambda args: None,
        not_preferred: Callable[[A], str | None] = lambda args: None,
    ) -> Implementation[A]:
        """Return the implementation by a custom operator, which takes the fields of the NamedTuple."""
        return cls(lambda args: op(*args), unsupported, not_preferred)


@dataclass(frozen=True)
class Choice:
    """The answer of `Operator.explain`: the backend that runs, why, and the reason against each one before it."""

    backend: str
    reason: str
    refused: Mapping[str, str]


def _check_backend(backend: str, source: str) -> str:
    """Return a known backend; `source` names where an unknown one came from."""
    if backend in RENAMED_BACKENDS:
        raise BackendUnavailableError(f"{source}{backend} was renamed; use {source}{RENAMED_BACKENDS[backend]}.")
    if backend not in BACKENDS:
        raise BackendUnavailableError(f"{source}{backend} must be one of {', '.join(BACKENDS)}.")
    return backend


@constant_in_graphs  # a compiled graph keeps the backend that it was traced with
def requested_backend() -> str:
    """Return the backend that the context or the environment requests."""
    return _requested.get() or _check_backend(os.environ.get(BACKEND_ENV) or "auto", f"{BACKEND_ENV}=")


class Operator(Generic[P, A]):
    """An operator with up to three implementations, tried in the order triton, torch, reference.

    Args:
        name: the operator's name, for errors.
        args: a NamedTuple class of the operator's arguments.
        reference: the definition, which takes every call.
        triton: this project's kernels.
        torch: torch's library calls.
    """

    def __init__(
        self,
        name: str,
        args: Callable[P, A],
        reference: Callable[[A], Tensor],
        *,
        triton: Implementation[A] | None = None,
        torch: Implementation[A] | None = None,
    ) -> None:
        self.name = name
        self.args = args
        known = {"triton": triton, "torch": torch, "reference": Implementation(reference)}
        self.implementations = {backend: found for backend, found in known.items() if found is not None}
        self.__doc__ = f"{reference.__doc__}\n\n{args.__doc__}"
        self.__signature__ = signature(args)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        call = self.args(*args, **kwargs)
        return self.implementations[self._select(call).backend].run(call)

    def run_on(self, backend: str, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        """Run this call on one backend.

        Raises:
            BackendUnavailableError: that backend cannot run the call.
        """
        with use_backend(backend):
            return self(*args, **kwargs)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Choice:
        """Return the implementation that would run this call, and why the ones before it would not."""
        return self._select(self.args(*args, **kwargs))

    def _select(self, call: A) -> Choice:
        requested = requested_backend()
        backend = "reference" if requested == "torch" and "torch" not in self.implementations else requested
        if backend != "auto" and backend not in self.implementations:
            raise BackendUnavailableError(
                f"{self.name} has no {backend} implementation; use one of {', '.join(self.implementations)}."
            )
        refused: dict[str, str] = {}
        for name, implementation in self.implementations.items():
            if backend not in ("auto", name):
                refused[name] = f"{requested} was requested"
                continue
            reason = implementation.unsupported(call)
            if reason is not None and backend == name:
                raise BackendUnavailableError(f"{self.name} cannot run on {name}: {reason}; use auto instead.")
            if reason is None and backend == "auto":
                reason = implementation.not_preferred(call)
            if reason is None:
                return Choice(name, "first that supports the call" if backend == "auto" else "requested", refused)
            refused[name] = reason
        raise AssertionError("The reference takes every call.")


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run every operator in this context on one backend ("auto", "triton", "torch" or "reference")."""
    token = _requested.set(_check_backend(backend, "backend="))
    try:
        yield
    finally:
        _requested.reset(token)
