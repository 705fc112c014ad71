"""Several processes on one device: the networks are so small that one of them leaves most of it idle."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from training.devices import cores
from training.errors import TrainingError

Job = TypeVar("Job")
Result = TypeVar("Result")


def share(work: Callable[[Job], Result], jobs: Sequence[Job], parallel: int) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they come to an end.

    Args:
        work: a function of a module, so that processes find it.
        jobs: in the order in which they are begun.
        parallel: processes; 1 stays in this one.

    Raises:
        TrainingError: no process at all; whatever `work` raises ends the rest, once the jobs under way are through.
    """
    if parallel < 1:
        raise TrainingError(f"jobs are shared among at least one process, not {parallel}")
    if parallel == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, work(job)
        return
    # read by PyTorch and numpy when a process starts: by default each would take all cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // parallel)))
    # spawned, not forked: a CUDA context does not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(parallel, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
