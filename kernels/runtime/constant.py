"""A mark for functions whose result a compiled graph keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def constant_in_graphs(function: F) -> F:
    """Mark a function as `torch.compiler.assume_constant_result` does, which would load all of torch's compiler.

    That is a thousand modules and half of the time that torch takes to load, in processes that never compile a graph.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
