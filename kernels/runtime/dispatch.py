"""Choice of an operator's form: an argument, a context manager or `OMNITOK_KERNELS`, in that order.

`triton` is our own kernels, `sdpa` torch's fused library calls, `reference` the readable definition; `auto` takes the
first that can run the call, in the order in which the operator names its forms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

BACKENDS = ("auto", "triton", "sdpa", "reference")
ENVIRONMENT = "OMNITOK_KERNELS"

_chosen: ContextVar[str | None] = ContextVar("omnitok_kernels", default=None)


class BackendUnavailableError(RuntimeError):
    """A backend was demanded by name and cannot run this call."""


@dataclass(frozen=True)
class Form(Generic[P]):
    """One implementation of an operator.

    Args:
        run: the implementation, with the operator's own signature.
        refuse: says in a few words why it cannot run a call, or None if it can.
        avoid: says likewise why `auto` does not take it although it can, or None.
    """

    run: Callable[P, Tensor]
    refuse: Callable[..., str | None] = lambda *args, **kwargs: None
    avoid: Callable[..., str | None] = lambda *args, **kwargs: None


@dataclass(frozen=True)
class Choice:
    """The answer of `Operator.explain`: the backend that runs, and why each other one does not."""

    backend: str
    because: str
    refused: Mapping[str, str]


@torch.compiler.assume_constant_result  # a compiled graph keeps the choice that it was traced with
def wanted_backend() -> str:
    """The backend that the context or the environment asks for."""
    wanted = _chosen.get() or os.environ.get(ENVIRONMENT) or "auto"
    if wanted not in BACKENDS:
        raise BackendUnavailableError(f"{ENVIRONMENT}={wanted!r} is none of {', '.join(BACKENDS)}")
    return wanted


class Operator(Generic[P]):
    """An operator with several forms, tried in the order in which they were given; the last must take every call.

    Args:
        name: the operator's name, for errors.
        forms: backend name to `Form`, best first; must hold "reference", whose docstring is the operator's.
    """

    def __init__(self, name: str, forms: Mapping[str, Form[P]]) -> None:
        if "reference" not in forms or set(forms) - set(BACKENDS):
            raise ValueError(f"{name}: forms {sorted(forms)} must hold 'reference' and be among {BACKENDS}")
        self.name = name
        self.forms = dict(forms)
        self.__doc__ = forms["reference"].run.__doc__
        self.__wrapped__ = forms["reference"].run

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return self.forms[self._select(args, kwargs).backend].run(*args, **kwargs)

    def run_on(self, backend: str, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        """Run with one backend for this call.

        Raises:
            BackendUnavailableError: that backend cannot run this call.
        """
        with use_backend(backend):
            return self(*args, **kwargs)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Choice:
        """Say which form would run this call, and why the others would not."""
        return self._select(args, kwargs)

    def _select(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Choice:
        wanted = wanted_backend()
        if wanted != "auto" and wanted not in self.forms and wanted != "sdpa":
            raise BackendUnavailableError(f"{self.name} has no {wanted} form, only {', '.join(self.forms)}")
        refused: dict[str, str] = {}
        for backend, form in self.forms.items():
            # where torch has no library call for an operator, its reference stands in
            if wanted not in ("auto", backend) and not (wanted == "sdpa" and backend == "reference"):
                refused[backend] = f"{wanted} was asked for"
                continue
            reason = form.refuse(*args, **kwargs)
            if reason is None and wanted == "auto":
                reason = form.avoid(*args, **kwargs)
            if reason is None:
                return Choice(backend, "first that can" if wanted == "auto" else "asked for", refused)
            if wanted == backend:
                raise BackendUnavailableError(f"{self.name} cannot run on {backend}: {reason}")
            refused[backend] = reason
        raise BackendUnavailableError(f"{self.name}: no form can run this call: {refused}")


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run every operator in this context on one backend ("auto", "triton", "sdpa" or "reference")."""
    if backend not in BACKENDS:
        raise BackendUnavailableError(f"{backend!r} is none of {', '.join(BACKENDS)}")
    token = _chosen.set(backend)
    try:
        yield
    finally:
        _chosen.reset(token)
