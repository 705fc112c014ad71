"""A run on Ray Data: shards are its rows, and each actor holds a tokenizer and the processes that read for it.

Rows are names and places of items; pixels never pass through Ray, whose copies would cost more than decoding.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bundle_files import BundleError
from model.codes.info import CodesInfo
from service.bulk.errors import BulkError
from service.bulk.executors import Report, Workplace, shards_at_once, workplace_of
from service.bulk.plan import Shard
from service.bulk.ray_messages import RayMessages

if TYPE_CHECKING:
    from service.bulk.encoder import ShardEncoder

MAX_ERROR_CHARS = 500
OBJECT_STORE_BYTES = 256 * 2**20


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
    with redirect_stdout(RayMessages()):
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
        at_once = shards_at_once(info.options)
        rows = [{"shard": pickle.dumps(shard)} for shard in shards]
        reports = ray_data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            EncoderActor,
            fn_constructor_args=(bundle.resolve(), dest.resolve(), info, self.workplace),
            batch_size=1,
            compute=ActorPoolStrategy(
                size=min(self.tokenizers, len(rows)),
                max_tasks_in_flight_per_actor=at_once + 1,  # one waits
                max_concurrent_calls_per_actor=at_once,
                enable_true_multi_threading=True,
            ),
            num_cpus=self._cpus,
            num_gpus=self._gpus,
        )
        try:
            for row in reports.iter_rows():
                report(read_report(row["report"]))
        except self._ray.exceptions.RayError as error:  # an actor died
            raise _failure(one_line(error)) from error


class EncoderActor:
    """A shard encoder as an actor of Ray Data.

    A failure is an answer, since Ray hides the sentence of an exception in its own; torch is loaded here alone.

    Args:
        bundle, dest, info, workplace: as of a `ShardEncoder`.
    """

    def __init__(self, bundle: Path, dest: Path, info: CodesInfo, workplace: Workplace) -> None:
        self._encoder: ShardEncoder | None = None
        self._failure = ""
        try:
            from service.bulk.encoder import ShardEncoder

            self._encoder = ShardEncoder(bundle, dest, info, workplace)
        except Exception as error:
            self._failure = one_line(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode the shards of a batch: pickled `Shard` objects to pickled reports, or sentences of failures."""
        return {"report": [pickle.dumps(self._encode(pickle.loads(shard))) for shard in batch["shard"]]}

    def close(self) -> None:
        """End its processes."""
        if self._encoder is not None:
            self._encoder.close()

    def _encode(self, shard: Shard) -> Report | str:
        if self._encoder is None:
            return self._failure
        try:
            return self._encoder.encode(shard)
        except Exception as error:
            return one_line(error)


def read_report(pickled: bytes) -> Report:
    """Return the report of a shard.

    Raises:
        BulkError: it is the sentence of a failure.
    """
    found: Report | str = pickle.loads(pickled)
    if isinstance(found, str):
        raise _failure(found)
    return found


def one_line(error: Exception) -> str:
    """Return an exception in a line; those of bundles and runs are sentences, others need the name of their kind."""
    text = " ".join(str(error).split())[:MAX_ERROR_CHARS]
    return text if isinstance(error, BundleError | BulkError) else f"{type(error).__name__}: {text}"


def _failure(text: str) -> BulkError:
    return BulkError(f"A tokenizer failed: {text.rstrip('.')}. What is done stays; run the command again.")


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
