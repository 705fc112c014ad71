"""A Ray cluster of this machine alone."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray import serve

from service.cluster.loopback import ray_on_loopback
from service.cluster.node_metrics import FOLDER, node_directory
from service.cluster.process_tree import signal_all, with_environment
from service.cluster.ray_environment import (
    cluster_environment,
    metrics_host,
    ray_request_seconds,
    ray_tmpdir,
    worker_count,
)
from service.cluster.ray_token import ray_token
from service.cluster.sessions import held_session
from service.cluster.signals import shielded
from service.held_directory import HeldDirectory, abandoned
from service.link.directory import SocketDirectory
from service.loopback import is_loopback
from service.metrics.exporter_supervisor import stop as stop_exporter
from service.settings import Settings

APP_NAME = "omnitok"
OBJECT_BYTES = 512 * 2**20  # arrays on their way between the tiers
FOLDER_PREFIX = "omnitok_"
FOLDER_PARENT_BYTES = 10  # HAProxy's sockets have 97, of which Ray's node id and the names of files take the rest


@contextlib.contextmanager
def cluster(settings: Settings, object_bytes: int = OBJECT_BYTES, folder: Path | None = None) -> Iterator[Path]:
    """Run a Ray cluster of this machine alone, with Serve listening where the settings say; yield its folder of logs.

    Args:
        settings: host, ports and replicas.
        object_bytes: shared memory for arrays on their way between the tiers, bytes.
        folder: private to this cluster; a new one if None.
    """
    with contextlib.ExitStack() as stack:
        folder = folder or stack.enter_context(private_folder())
        stack.enter_context(cluster_environment(settings, folder))
        stack.enter_context(ray_token(folder))
        yield stack.enter_context(_ray(settings, object_bytes))


@contextlib.contextmanager
def _ray(settings: Settings, object_bytes: int) -> Iterator[Path]:
    start: Callable[[], Any] = functools.partial(
        ray.init,
        address="local",
        num_cpus=worker_count(settings),  # Ray starts so many workers before they are needed
        object_store_memory=object_bytes,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _metrics_export_port=settings.ray_metrics_port,
    )
    with contextlib.ExitStack() as stack:
        if is_loopback(metrics_host(settings)):
            stack.enter_context(ray_on_loopback())
        session = Path(stack.enter_context(shielded(start)).address_info["session_dir"])
        with contextlib.suppress(OSError):  # of a full disk
            stack.enter_context(held_session(session))
        directory = _node_directory()
        try:
            serve.start(
                http_options={
                    "host": settings.host,
                    "port": settings.port,
                    "request_timeout_s": ray_request_seconds(settings),
                },
                logging_config={"enable_access_log": False},
            )
            yield session / "logs"  # `session_latest` may be another cluster's
        finally:
            # Ray reports the end of its own controller as a failure, on the terminal of whoever stops it.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                serve.shutdown()
                if directory is not None:
                    stop_exporter(directory.path / FOLDER)
                    directory.close()
                ray.shutdown()


def _node_directory() -> SocketDirectory | None:
    """Return the folder of the replicas that will come, or None where they cannot share one."""
    try:
        return node_directory(APP_NAME)
    except OSError:
        return None  # each of them says so


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new folder for sockets: beside Ray's own, unless their paths would be too long.

    At the end all processes of its cluster end. Ray leaves some of a start that fails.
    """
    end_orphans()  # nobody finds them any more once their folders are swept
    held = HeldDirectory(FOLDER_PREFIX, _folder_parent())
    try:
        yield held.path
    finally:
        _end_processes(held.path)
        held.close()


def end_orphans() -> bool:
    """End what services that were killed have left, and return whether there was any.

    HAProxy would hold its port for good, others for a minute.
    """
    found = False
    for folder in abandoned(FOLDER_PREFIX, _folder_parent()):
        found |= _end_processes(folder)
    return found


def _end_processes(folder: Path) -> bool:
    """Kill the processes of a cluster, which have its folder in their environment; return whether there was any."""
    pids = with_environment(f"={folder}/")
    signal_all(pids, signal.SIGKILL)
    return bool(pids)


def _folder_parent() -> Path:
    parent = ray_tmpdir()
    return parent if len(os.fsencode(parent)) <= FOLDER_PARENT_BYTES else Path("/tmp")
