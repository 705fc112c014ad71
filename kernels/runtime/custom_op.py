"""Custom operators: opaque to torch.compile, run by a Triton launch."""

from __future__ import annotations

from importlib import import_module
from typing import Any, get_type_hints

import torch
from torch import Tensor
from torch.library import CustomOpDef

CONTIGUOUS = torch.contiguous_format
_SCHEMA_TYPES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "int",
    int | None: "int?",
    float: "float",
    bool: "bool",
    str: "str",
    torch.dtype: "ScalarType",
}


def launch_op(
    launch: str,
    args: type[tuple[Any, ...]] | str,
    returns: str = "Tensor",
    *,
    name: str = "",
    grad: bool = False,
    mutated: str = "",
) -> CustomOpDef:
    """Define the custom operator `omnitok::<name>`.

    The launch is imported on the first call, since a machine without a GPU may lack triton. Torch omits trailing
    arguments that equal their defaults, in fake functions and in `ctx.needs_input_grad` too.

    Args:
        launch: "<folder>.<function>" for a function of `kernels/<folder>/launch.py`.
        args: a NamedTuple class, which the launch takes as one argument and the operator as its fields; or the
            arguments in torch's schema notation, which both take one by one.
        returns: in torch's schema notation.
        name: by default the launch's function.
        grad: the gradient of the output comes before the arguments.
        mutated: the field of `args` that the launch writes to; every call gives it and the fields before it.
    """
    folder, function = launch.split(".")
    fields = args if isinstance(args, str) else _schema(args, mutated)

    def run(*flat: Any) -> Any:
        call = getattr(import_module(f"kernels.{folder}.launch"), function)
        return call(*flat) if isinstance(args, str) else call(*flat[:grad], args(*flat[grad:]))

    op: CustomOpDef = torch.library.custom_op(
        f"omnitok::{name or function}",
        run,
        mutates_args=(mutated,) if mutated else (),
        schema=f"({'Tensor grad, ' if grad else ''}{fields}) -> {returns}",
    )
    return op


def differentiable_op(folder: str, args: type[tuple[Any, ...]], grads: int, name: str = "") -> CustomOpDef:
    """Define the custom operator `omnitok::<name>` by `forward` and `backward` of `kernels/<folder>/launch.py`.

    Args:
        folder: of `kernels`.
        args: a NamedTuple class, as for `launch_op`.
        grads: number of leading arguments to which `backward(grad, args)` returns gradients, of any value for None.
        name: by default the folder.
    """
    name = name or folder
    returns = f"({', '.join(['Tensor'] * grads)})"
    forward = launch_op(f"{folder}.forward", args, name=name)
    backward = launch_op(f"{folder}.backward", args, returns, name=f"{name}_backward", grad=True)

    @backward.register_fake
    def _(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        filled = (*inputs, *(None,) * grads)[:grads]
        return tuple(grad.new_empty(0) if x is None else torch.empty_like(x, memory_format=CONTIGUOUS) for x in filled)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in inputs))
        ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [other if x is None else x for x, other in zip(ctx.saved_tensors, ctx.others, strict=True)]
        found = zip(inputs, backward(grad, *inputs), strict=False)
        return *(None if x is None else d for x, d in found), *(None,) * (len(inputs) - grads)

    forward.register_autograd(differentiate, setup_context=save)
    return forward


def _schema(args: type[tuple[Any, ...]], mutated: str) -> str:
    kinds = get_type_hints(args)
    defaults: dict[str, Any] = getattr(args, "_field_defaults", {})
    if mutated:  # torch 2.11 takes a mutated argument by its position, also where it omitted a default
        required = list(kinds)[: list(kinds).index(mutated) + 1]
        defaults = {field: value for field, value in defaults.items() if field not in required}
    return ", ".join(
        f"{_SCHEMA_TYPES[kind].replace('Tensor', 'Tensor(a!)' if field == mutated else 'Tensor')} {field}"
        + (f"={_literal(defaults[field])}" if field in defaults else "")
        for field, kind in kinds.items()
    )


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
