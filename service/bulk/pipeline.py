"""A run on Ray Data: shards are its rows, and each actor holds a tokenizer and the processes that read for it.

Rows are names and places of items; pixels never pass through Ray, whose copies would cost more than decoding.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.codes.info import CodesInfo
from service.bulk.encoder import SHARDS_AT_ONCE, Report, ShardEncoder
from service.bulk.errors import BulkError
from service.bulk.executors import workplace_of
from service.bulk.plan import Shard

OBJECT_STORE_BYTES = 256 * 2**20
SHARDS_PER_TOKENIZER = SHARDS_AT_ONCE + 1  # one more waits at each


@contextmanager
def ray_executor(address: str | None, cpus: int | None, device: str, dtype: str | None) -> Iterator[RayExecutor]:
    """Connect to a Ray cluster, or start one on this machine; yield its tokenizers.

    Args:
        address: of the cluster; None starts one.
        cpus: of a cluster that is started, None for all of this machine; else of each tokenizer, None for all of a node
            or its share for a GPU.
        device: "auto", "cpu" or "cuda".
        dtype: precision; None for the device's usual one.

    Raises:
        BulkError: the cluster does not answer, or has no such device.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # or the command's own lines would be lost among Ray's
    started = address is None
    if started:  # it takes loopback for its address then, as on macOS, so that others reach none of its ports
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    try:
        with _silent():
            ray.init(
                address=address or "local",
                num_cpus=cpus if started else None,
                object_store_memory=OBJECT_STORE_BYTES if started else None,
                include_dashboard=False if started else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, ValueError) as error:
        raise BulkError(f"The Ray cluster at {address} does not answer: {error}.") from error
    try:
        yield RayExecutor(ray, device, dtype, None if started else cpus)
    finally:
        ray.shutdown()


class RayExecutor:
    """The tokenizers of a cluster: one a GPU, or one for each node's CPUs.

    Args:
        ray: connected.
        device, dtype: as of `ray_executor`.
        cpus: of each tokenizer; None for all of a node, or its share for a GPU.

    Attributes:
        tokenizers, workplace: as of `Executor`.

    Raises:
        BulkError: the device does not exist.
    """

    def __init__(self, ray: Any, device: str, dtype: str | None, cpus: int | None = None) -> None:
        self._ray = ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        with_gpu = [node for node in nodes if node.get("GPU")]
        if device == "cuda" and not with_gpu:
            raise BulkError("The Ray cluster has no GPU. Choose the device cpu.")
        if not nodes:
            raise BulkError("No node of the Ray cluster has a CPU to give.")
        if device != "cpu" and with_gpu:
            self.tokenizers, self._gpus = sum(int(node["GPU"]) for node in with_gpu), 1
            self._cpus = max(1, min(int(node["CPU"] // node["GPU"]) for node in with_gpu))
        else:
            self.tokenizers, self._gpus = len(nodes), 0
            self._cpus = max(1, min(int(node["CPU"]) for node in nodes))
        self._cpus = cpus or self._cpus
        self.workplace = workplace_of("cuda" if self._gpus else "cpu", dtype, self._cpus)

    def run(
        self, bundle: Path, dest: Path, info: CodesInfo, shards: Sequence[Shard], report: Callable[[Report], None]
    ) -> None:
        import ray.data as ray_data
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = [{"shard": pickle.dumps(shard)} for shard in shards]
        reports = ray_data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            ShardEncoder,
            fn_constructor_args=(bundle.resolve(), dest.resolve(), info, self.workplace),
            batch_size=1,
            compute=ActorPoolStrategy(
                size=min(self.tokenizers, len(rows)),
                max_tasks_in_flight_per_actor=SHARDS_PER_TOKENIZER,
                max_concurrent_calls_per_actor=SHARDS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            num_cpus=self._cpus,
            num_gpus=self._gpus,
        )
        try:
            for row in reports.iter_rows():
                report(pickle.loads(row["report"]))
        except self._ray.exceptions.RayError as error:
            text = f"{_cause(error)}. What is done stays; run the command again."
            raise BulkError(f"A tokenizer failed: {text}") from error


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}".rstrip(".")


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what native code writes off standard error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
