"""Making a training step fast on a CUDA device: compiled blocks, and one launch a step instead of thousands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.tokenizer.tokenizer import OmniTokenizer
from training.tokenizer.step import Phase, TrainingStep

EAGER_USES = 2  # of each kind of step before its capture: they compile, choose algorithms and make optimiser state


def compile_blocks(tokenizer: OmniTokenizer) -> None:
    """Compile block by block: blocks of a kind share their code, so a shape is compiled three times, not 16."""
    torch._dynamo.config.recompile_limit = 64
    for part in (tokenizer.encoder, tokenizer.decoder):
        for stack in (part.spatial, part.temporal):
            for block in stack.blocks:
                assert isinstance(block, nn.Module)
                block.compile(dynamic=False)


@dataclass
class _Kind:
    """One kind of step: how often it was used, and its graph with the graph's own input and output."""

    uses: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    pixels: Tensor | None = None
    figures: dict[str, Tensor] | None = None


class CapturedStep:
    """Runs a `TrainingStep`, by replaying it once it has been seen a few times for a shape of pixels and a phase.

    The first uses of a kind run as they are and train as any other; the next is recorded. Graphs share their memory, so
    the figures of a step hold until the next step.

    Args:
        step: of a tokenizer on a CUDA device, of a process that trains alone.
    """

    def __init__(self, step: TrainingStep) -> None:
        self.step = step
        self.kinds: dict[tuple[torch.Size, Phase], _Kind] = {}
        self.stream = torch.cuda.Stream(step.device)
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, pixels: Tensor, phase: Phase) -> dict[str, Tensor]:
        """Train on a batch; arguments and result are those of `TrainingStep`."""
        kind = self.kinds.setdefault((pixels.shape, phase), _Kind())
        kind.uses += 1
        if kind.uses <= EAGER_USES:
            return self._aside(pixels, phase)
        if kind.graph is None:
            self._record(kind, pixels, phase)
        assert kind.graph is not None
        assert kind.pixels is not None
        assert kind.figures is not None
        kind.pixels.copy_(pixels, non_blocking=True)
        kind.graph.replay()
        return kind.figures

    def _aside(self, pixels: Tensor, phase: Phase) -> dict[str, Tensor]:
        """Run on a stream of our own, as memory that is touched before a capture must not belong to the default one."""
        current = torch.cuda.current_stream(self.step.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            figures = self.step(pixels, phase)
        current.wait_stream(self.stream)
        return figures

    def _record(self, kind: _Kind, pixels: Tensor, phase: Phase) -> None:
        """Capture the step; nothing of it runs yet."""
        kind.pixels = pixels.clone()
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile: the loader's pins memory
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            kind.figures = self.step(kind.pixels, phase)
        kind.graph = graph
