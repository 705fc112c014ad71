"""Custom operators: opaque to torch.compile, run by a Triton launch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch.library import CustomOpDef


def launch_op(name: str, schema: str, launch: str) -> CustomOpDef:
    """Define the operator `omnitok::<name>`.

    The launch is imported on the first call, since a machine without a GPU may lack triton. It must repeat the
    schema's defaults: torch omits trailing arguments that equal them.

    Args:
        name: of the operator.
        schema: arguments and results in torch's notation, such as "(Tensor x, float eps=1e-5) -> Tensor".
        launch: "<folder>.<function>" for a function of `kernels/<folder>/launch.py`.
    """
    folder, function = launch.split(".")

    def run(*args: Any) -> Any:
        return getattr(import_module(f"kernels.{folder}.launch"), function)(*args)

    op: CustomOpDef = torch.library.custom_op(f"omnitok::{name}", run, mutates_args=(), schema=schema)
    return op
