"""Gradients of several ranks: averaged in buckets while the backward pass still computes those of earlier layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import ref

from torch import Tensor, nn

from training.distributed import Ranks

BUCKET_BYTES = 32 << 20  # of one reduction: large enough for the links' full speed, small enough to overlap


class GradientAverager:
    """Replaces gradients by their means over the ranks, during the backward pass that completes them.

    Gradients fill buckets in the order in which they are complete, which is the same on every rank.

    Args:
        parameters: that share an optimiser.
        ranks: the processes that train together; alone, nothing happens.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
        self.ranks = ranks
        self.parameters = list(parameters) if ranks.world > 1 else []
        self._active = False
        self._bucket: list[nn.Parameter] = []
        self._averaged: set[nn.Parameter] = set()
        self._reductions: list[tuple[list[nn.Parameter], Callable[[], list[Tensor]]]] = []
        this = ref(self)  # a parameter with a hook that holds the parameter is never freed

        def add(parameter: Tensor) -> None:
            if (averager := this()) is not None:
                averager._add(parameter)

        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(add)

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add the gradients of a loss.

        Args:
            loss: scalar.
            last: of the step: all gradients are averaged at the return.
        """
        self._active = last
        loss.backward()
        if not last:
            return
        for parameter in self.parameters:
            if parameter.grad is not None and parameter not in self._averaged:  # only an earlier pass has set it
                self._add(parameter)
        self._active = False
        self._reduce()
        for members, finish in self._reductions:
            for parameter, mean in zip(members, finish(), strict=True):
                if mean.stride() == parameter.stride():
                    parameter.grad = mean  # a copy into the old gradient would cost a pass over memory
                elif parameter.grad is not None:
                    parameter.grad.copy_(mean)  # Adam walks a weight and its gradient in one order
        self._averaged.clear()
        self._reductions.clear()

    def _add(self, parameter: nn.Parameter | Tensor) -> None:
        if not self._active:
            return
        assert isinstance(parameter, nn.Parameter)
        self._bucket.append(parameter)
        self._averaged.add(parameter)
        if sum(member.nbytes for member in self._bucket) >= BUCKET_BYTES:
            self._reduce()

    def _reduce(self) -> None:
        members, self._bucket = self._bucket, []
        gradients = [parameter.grad for parameter in members if parameter.grad is not None]
        if gradients:
            self._reductions.append((members, self.ranks.begin_mean(gradients)))
