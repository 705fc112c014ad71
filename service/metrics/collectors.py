"""The metrics of a node's exporter: the sums of its processes, its disks, its GPUs, and its own size."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.metrics.definitions import AGES, PREFIX
from service.metrics.folder import compact


class ProcessesCollector(Collector):
    """The sums of all processes that count in a folder, dead ones included, and gauges of those that live.

    Args:
        folder: where they count.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._alone = threading.Lock()

    def compact(self) -> None:
        """Add up the files of processes that have ended."""
        with self._alone:
            compact(self._folder)

    def collect(self) -> Iterable[Metric]:
        """Return all metrics, and how many series and files they take."""
        with self._alone:
            compact(self._folder)
            paths = [os.fspath(path) for path in self._folder.glob("*.db")]
            metrics = list(MultiProcessCollector.merge(paths))
        now = self._clock()
        for metric in metrics:
            if metric.name in AGES:
                metric.samples = [
                    sample._replace(value=max(0.0, now - sample.value) if sample.value else 0.0)
                    for sample in metric.samples
                ]
        series = sum(len(metric.samples) for metric in metrics)
        return [
            *metrics,
            GaugeMetricFamily(f"{PREFIX}metrics_series", "Series of all processes of this node", series),
            GaugeMetricFamily(f"{PREFIX}metrics_files", "Files that hold them", len(paths)),
        ]


class FilesystemCollector(Collector):
    """The size and the free bytes of filesystems.

    Args:
        paths: folders in them, by the value of the label `mount`; what does not exist is left out.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def collect(self) -> Iterable[Metric]:
        """Return both for each filesystem."""
        size = GaugeMetricFamily(f"{PREFIX}filesystem_size_bytes", "Size of a filesystem", labels=["mount"])
        free = GaugeMetricFamily(f"{PREFIX}filesystem_free_bytes", "Free bytes of a filesystem", labels=["mount"])
        for mount, path in self._paths.items():
            try:
                usage = shutil.disk_usage(path)
            except OSError:
                continue
            size.add_metric([mount], usage.total)
            free.add_metric([mount], usage.free)
        return [size, free]


class BuildCollector(Collector):
    """The version, and the start of the service.

    Args:
        version: of the service.
        started: seconds since the epoch.
    """

    def __init__(self, version: str, started: float) -> None:
        self._version, self._started = version, started

    def collect(self) -> Iterable[Metric]:
        """Return both."""
        build = GaugeMetricFamily(f"{PREFIX}build_info", "Version of the service", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        yield GaugeMetricFamily(
            f"{PREFIX}start_time_seconds", "When processes of this node began to count", self._started
        )
