"""Fast training steps on a CUDA device: compiled blocks, and one launch a step instead of thousands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.inference.graphs import capture_graph, on_stream
from model.tokenizer.tokenizer import OmniTokenizer
from training.schedule import Phase

EAGER_STEPS = 2  # of each kind of step before its capture: they compile, choose algorithms and make optimiser state


def compile_blocks(tokenizer: OmniTokenizer) -> None:
    """Compile block by block: blocks of a kind share their code, so a shape is compiled three times, not 16."""
    torch._dynamo.config.recompile_limit = 64
    for part in (tokenizer.encoder, tokenizer.decoder):
        for stack in (part.spatial, part.temporal):
            for block in stack.blocks:
                assert isinstance(block, nn.Module)
                block.compile(dynamic=False)


_Graph = tuple[torch.cuda.CUDAGraph, Tensor, dict[str, Tensor]]  # with its own input and output


@dataclass
class _Kind:
    """One kind of step: how often it was used, and its graph."""

    uses: int = 0
    graph: _Graph | None = None


class CapturedStep:
    """Runs a training step, by replaying it once it has been seen a few times for a shape of pixels and a phase.

    The first uses of a kind run as they are and train as any other; the next is recorded. Graphs share their memory, so
    the metrics of a step hold until the next step.

    Args:
        step: metrics of a step on pixels in a phase, of a process that trains alone.
        device: CUDA device that it runs on.
    """

    def __init__(self, step: Callable[[Tensor, Phase], dict[str, Tensor]], device: torch.device) -> None:
        self.step = step
        self.kinds: dict[tuple[torch.Size, Phase], _Kind] = {}
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, pixels: Tensor, phase: Phase) -> dict[str, Tensor]:
        """Train on a batch; arguments and result are those of the step."""
        kind = self.kinds.setdefault((pixels.shape, phase), _Kind())
        kind.uses += 1
        if kind.uses <= EAGER_STEPS:
            with on_stream(self.stream):
                return self.step(pixels, phase)
        if kind.graph is None:
            kind.graph = self._record(pixels.clone(), phase)
        graph, own_pixels, metrics = kind.graph
        own_pixels.copy_(pixels, non_blocking=True)
        graph.replay()
        return metrics

    def _record(self, pixels: Tensor, phase: Phase) -> _Graph:
        # the loader's thread pins memory meanwhile
        graph, metrics = capture_graph(lambda: self.step(pixels, phase), self.pool, self.stream, "thread_local")
        return graph, pixels, metrics
