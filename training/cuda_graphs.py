"""Fast training steps on a CUDA device: compiled blocks, and one launch a step instead of thousands."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from model.inference.graphs import capture_graph, on_stream

EAGER_STEPS = 2  # of each kind of step before its capture: they compile, choose algorithms and make optimiser state


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile block by block: blocks of a kind share their code, so that a shape is compiled once a kind."""
    torch._dynamo.config.recompile_limit = 64
    for block in blocks:
        block.compile(dynamic=False)


_Graph = tuple[torch.cuda.CUDAGraph, list[Tensor], dict[str, Tensor]]  # with its own inputs and output


@dataclass
class _Kind:
    """One kind of step: how often it was used, and its graph."""

    uses: int = 0
    graph: _Graph | None = None


class CapturedStep:
    """Runs a training step, by replaying it once it has been seen a few times for shapes of inputs and a phase.

    The first uses of a kind run as they are and train as any other; the next is recorded. Graphs share their memory, so
    the metrics of a step hold until the next step.

    Args:
        step: metrics of a step on tensors, or a tuple of them, in a phase; all ranks take the same steps.
        device: CUDA device that it runs on.
    """

    def __init__(self, step: Callable[[Any, Any], dict[str, Tensor]], device: torch.device) -> None:
        self.step = step
        self.kinds: dict[tuple[tuple[torch.Size, ...], Hashable], _Kind] = {}
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, inputs: Any, phase: Hashable) -> dict[str, Tensor]:
        """Train on a batch; arguments and result are those of the step."""
        tensors = tree_leaves(inputs)
        kind = self.kinds.setdefault((tuple(tensor.shape for tensor in tensors), phase), _Kind())
        kind.uses += 1
        if kind.uses <= EAGER_STEPS:
            with on_stream(self.stream):
                return self.step(inputs, phase)
        if kind.graph is None:
            kind.graph = self._record(tree_map(torch.clone, inputs), phase)
        graph, own_inputs, metrics = kind.graph
        for own, tensor in zip(own_inputs, tensors, strict=True):
            own.copy_(tensor, non_blocking=True)
        graph.replay()
        return metrics

    def _record(self, inputs: Any, phase: Hashable) -> _Graph:
        # the loader's thread pins memory meanwhile
        graph, metrics = capture_graph(lambda: self.step(inputs, phase), self.pool, self.stream, "thread_local")
        return graph, tree_leaves(inputs), metrics
