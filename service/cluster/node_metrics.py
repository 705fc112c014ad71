"""The place of a replica among the processes of its node: its name, the folder that they share, and its metrics."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from service.cluster.ray_environment import metrics_host, ray_tmpdir, replica_counts
from service.link.directory import SocketDirectory
from service.metrics.exporter_supervisor import ExporterSupervisor
from service.metrics.folder import join
from service.metrics.replica import ReplicaMetrics
from service.settings import Settings

FOLDER = "metrics"

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Node:
    """The place of this process.

    Args:
        replica: Ray's name of it, "" outside of replicas.
        metrics: its life.
        directory: holds the folder of the node for as long as the process lives.
    """

    replica: str
    metrics: ReplicaMetrics
    directory: SocketDirectory | None

    def ready(self) -> None:
        """Count this replica, and leave all that it has loaded out of later garbage collections.

        A full one would walk half a million objects of Ray, torch and FastAPI, and hold up every request for 0.1 s.
        """
        gc.collect()
        gc.freeze()
        self.metrics.ready()


def join_node(settings: Settings, deployment: str) -> Node:
    """Have this process count in the files of its node, and see that the exporter runs. Make its metrics afterwards.

    Args:
        settings: of the exporter, and the replicas that are wanted.
        deployment: what this process is a replica of.
    """
    directory = link_directory()
    if directory is not None:
        try:
            folder = directory.path / FOLDER
            folder.mkdir(mode=0o700, exist_ok=True)
            join(folder)
            ExporterSupervisor(folder, metrics_host(settings), settings.metrics_port, _mounts(settings)).start()
        except OSError as error:  # a full disk must not keep a replica from its work
            log.warning("the metrics of this replica are lost: %s", error)
    name = serve.get_replica_context().replica_id.unique_id if directory is not None else ""
    return Node(name, ReplicaMetrics(deployment, replica_counts(settings)), directory)


def link_directory() -> SocketDirectory | None:
    """Return the folder that the replicas of this node and application share; None outside of replicas."""
    try:
        application = serve.get_replica_context().app_name
    except RayServeException:
        return None
    try:
        return node_directory(application)
    except OSError as error:
        log.warning("replicas of this node share no folder, so there is neither a link nor metrics: %s", error)
        return None


def node_directory(application: str) -> SocketDirectory:
    """Return the folder that the replicas of an application share on this node.

    Raises:
        OSError: somebody else has it, or its path is too long.
    """
    context = ray.get_runtime_context()
    return SocketDirectory(context.get_session_name(), context.get_node_id(), application)


def _mounts(settings: Settings) -> Mapping[str, Path]:
    mounts = {"tmp": ray_tmpdir(), "shm": Path("/dev/shm")}
    return mounts if settings.jobs_folder is None else mounts | {"jobs": settings.jobs_folder}
