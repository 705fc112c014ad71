"""Several processes that train one tokenizer: what they must agree on, and how they do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from training.devices import resolve_device
from training.errors import TrainingError

# compiling for a new resolution may take one rank minutes longer than another
COLLECTIVE_TIMEOUT = timedelta(minutes=20)


@dataclass(frozen=True)
class Ranks:
    """The processes of a run; alone by default, where every method is the identity.

    Args:
        rank, world: this process among all of them.
        control: group of small messages between hosts' memories, so that no rank waits for its device.
    """

    rank: int = 0
    world: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files and prints."""
        return self.rank == 0

    def all_reduce_mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type and device by their means over the ranks."""
        if self.world > 1 and tensors:
            torch._foreach_copy_(list(tensors), self.begin_mean(tensors)())

    def begin_mean(self, tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Begin the means of tensors over several ranks while the device does other work.

        Args:
            tensors: of one type and device.

        Returns:
            The call that waits for the means and returns them, as parts of one buffer.
        """
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        averages = dist.get_backend() == "nccl"  # gloo only adds
        work = dist.all_reduce(flat, dist.ReduceOp.AVG if averages else dist.ReduceOp.SUM, async_op=True)

        def finish() -> list[Tensor]:
            work.wait()
            if not averages:
                flat.div_(self.world)
            parts = flat.split([tensor.numel() for tensor in tensors])
            return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

        return finish

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the ranks' tensors of one shape, rank 0 first: a batch as one process would hold it."""
        if self.world == 1:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.world)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def agree(self, stop: bool, seconds: float) -> tuple[bool, float]:
        """Return whether any rank was asked to stop, and the time by rank 0's clock: all ranks get the same answer."""
        if self.world == 1:
            return stop, seconds
        message = torch.tensor([float(stop), seconds if self.rank == 0 else 0.0], dtype=torch.float64)
        dist.all_reduce(message, group=self.control)
        return bool(message[0] > 0), float(message[1])

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier(group=self.control)


@contextmanager
def init_distributed(name: str | None) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), or stay alone.

    Args:
        name: device by name, as for `resolve_device`; of several CUDA ranks each takes the device of its LOCAL_RANK.

    Yields:
        The ranks and this process's device.

    Raises:
        TrainingError: no such device, or an environment that names no rank.
    """
    world = _environment("WORLD_SIZE", "1")
    if world == 1:
        yield Ranks(), resolve_device(name)
        return
    rank, local = _environment("RANK", ""), _environment("LOCAL_RANK", "0")
    device = resolve_device(name)
    if device.type == "cuda":
        device = resolve_device(f"cuda:{local}")
        torch.cuda.set_device(device)
    if not 0 <= rank < world:
        raise TrainingError(f"RANK is {rank} of {world} processes.")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT)
    yield Ranks(rank, world, dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)), device
    # not after an error: NCCL would wait for ever for captured graphs, which the error's traceback keeps
    dist.destroy_process_group()


def _environment(variable: str, default: str) -> int:
    text = os.environ.get(variable, default)
    try:
        return int(text)
    except ValueError as error:
        raise TrainingError(f"{variable} is {text!r}, not a number: start several processes with torchrun.") from error
