"""Processes that come and go on one node: exact sums, and neither series nor files that pile up."""

from __future__ import annotations

import errno
import itertools
import math
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import waiting
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.service.process import free_port
from service.finished_request import FinishedRequest
from service.metrics import exporter_supervisor
from service.metrics.collectors import FilesystemCollector, ProcessesCollector
from service.metrics.definitions import BUCKET_FACTOR, DEADLINE_SECONDS, METRICS, SECONDS, STEP_SECONDS, Metric
from service.metrics.exporter import registry
from service.metrics.exporter_supervisor import ExporterSupervisor, stop
from service.metrics.folder import FILE_BYTES, compact, files, living
from service.metrics.generator import GeneratorMetrics
from service.metrics.gpu import GpuCollector
from service.metrics.http import IngressMetrics
from service.metrics.replica import ReplicaMetrics
from service.metrics.tokenizer import KernelMetrics, TokenizerMetrics

SERIES_BUDGET = 6000  # of a node, as the alert says
REPLACEMENTS = 3  # each leaves as much behind as the one before
FILES_PER_PROCESS, MERGED_FILES = 4, 2

# A process that counts like a whole node, and is killed.
REPLICAS = """
import os, signal, sys
from pathlib import Path
from service.finished_request import FinishedRequest
from service.metrics.folder import join
folder = Path(sys.argv[1])
for name in sys.argv[2:]:
    if os.fork():
        os.wait()
        continue
    join(folder)
    from service.metrics.http import IngressMetrics
    from service.metrics.replica import ReplicaMetrics
    from service.metrics.tokenizer import TokenizerMetrics
    ReplicaMetrics("Tokenizer", {"Tokenizer": 1}).ready()
    ingress, tokenizer = IngressMetrics(name), TokenizerMetrics(name, ["a", "b"])
    ingress.in_flight("/encode", 1)
    ingress.observe(FinishedRequest("/encode", "POST", 200, 0.25, 3, 4, None, {"queue_ms": 10.0}))
    tokenizer.queue(5, 50, 0.0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_replicas(folder: Path, *names: str) -> None:
    subprocess.run([sys.executable, "-c", REPLICAS, os.fspath(folder), *names], check=True, timeout=waiting.SECONDS)


def test_what_killed_processes_counted_is_kept_and_their_gauges_go(folder: Path, read: Callable[..., float]) -> None:
    ingress = IngressMetrics("me")
    ingress.in_flight("/encode", 1)
    ingress.observe(FinishedRequest("/encode", "POST", 200, 0.25, 3, 4, None, {}))
    killed_replicas(folder, "x", "y")
    for _ in range(2):  # as they are, and after they were merged
        assert read("http_requests_total", route="/encode", code="200") == 3
        assert read("http_request_bytes_total", route="/encode") == 9
        assert read("http_request_duration_seconds_count", route="/encode") == 3
        assert read("http_request_duration_seconds_sum", route="/encode") == 0.75
        assert read("stage_duration_seconds_count", stage="queue") == 2
        assert read("http_requests_in_flight", route="/encode") == 1
        assert read("replica_starts_total", deployment="Tokenizer") == 2
        with pytest.raises(AssertionError, match="no sample"):
            read("queue_requests", replica="x")


def test_replicas_that_end_leave_neither_series_nor_files(folder: Path) -> None:
    IngressMetrics("me")
    TokenizerMetrics("me", ["a", "b"])
    ReplicaMetrics("Tokenizer", {"Tokenizer": 1}).ready()
    every = CollectorRegistry()
    every.register(ProcessesCollector(folder))
    before = len(generate_latest(every).splitlines())
    killed_replicas(folder, *(f"r{number}" for number in range(REPLACEMENTS)))
    text = generate_latest(every).decode()
    assert len(text.splitlines()) <= before + 1  # the starts of the killed ones
    assert len([line for line in text.splitlines() if not line.startswith("#")]) < SERIES_BUDGET
    assert len(list(files(folder))) == FILES_PER_PROCESS + MERGED_FILES
    assert f'omnitok_replica_starts_total{{deployment="Tokenizer"}} {REPLACEMENTS + 1}.0' in text


def test_every_name_and_label_of_the_table_is_shown(folder: Path) -> None:
    """The table is the whole truth, and within the budget with every known series and two bundles."""

    def series(metric: Metric) -> int:
        values = math.prod(len(known) for known in metric.known or ()) if metric.known is not None else 10
        return values * (len(metric.buckets) + 3 if metric.buckets else 1)

    assert sum(map(series, METRICS.values())) < SERIES_BUDGET
    assert all(metric.help and not metric.help.endswith(".") for metric in METRICS.values())


@pytest.mark.parametrize(("bounds", "last"), [(SECONDS, DEADLINE_SECONDS), (STEP_SECONDS, 5.0)])
def test_a_quantile_is_at_most_a_bucket_from_the_truth(bounds: tuple[float, ...], last: float) -> None:
    assert bounds[-1] >= last
    for low, high in itertools.pairwise(bounds):
        assert 1 < high / low < BUCKET_FACTOR + 0.01


def test_a_full_disk_is_an_error_of_the_start_not_of_a_request(folder: Path) -> None:
    """Each page is there before it is written: a hole in a file on a full disk would kill the process."""
    for path, kind, _ in files(folder):
        assert path.stat().st_blocks * 512 >= path.stat().st_size, kind


def test_what_an_ingress_knows_ahead_fits_into_its_files(folder: Path) -> None:
    IngressMetrics("i")
    ReplicaMetrics("Ingress", {"Ingress": 1}).ready()
    assert {kind: path.stat().st_size for path, kind, _ in files(folder)} == FILE_BYTES


def test_what_is_known_ahead_fits_into_the_files_as_they_are_made(folder: Path) -> None:
    TokenizerMetrics("t", [f"model-{number}" for number in range(8)])
    GeneratorMetrics("t", {f"generator-{number}": "lm" for number in range(8)})
    KernelMetrics()
    ReplicaMetrics("Tokenizer", {"Tokenizer": 1}).ready()
    assert {kind: path.stat().st_size for path, kind, _ in files(folder)} == FILE_BYTES


def test_filesystems_are_shown_and_those_that_are_missing_left_out(tmp_path: Path) -> None:
    size, free = FilesystemCollector({"tmp": tmp_path, "jobs": tmp_path / "none"}).collect()
    assert [sample.labels for sample in size.samples] == [{"mount": "tmp"}]
    assert 0 < free.samples[0].value <= size.samples[0].value


@pytest.mark.parametrize(("step", "name"), [("rename", "counter_merged.new"), ("unlink", "counter_")])
def test_who_kills_a_merge_neither_doubles_nor_loses_counts(
    folder: Path, read: Callable[..., float], monkeypatch: pytest.MonkeyPatch, step: str, name: str
) -> None:
    class KilledError(BaseException):
        pass

    killed_replicas(folder, "x", "y")
    original = getattr(Path, step)

    def killed(path: Path, *arguments: object, **options: object) -> object:
        if path.name.startswith(name):
            raise KilledError
        return original(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, killed)
        with pytest.raises(KilledError):
            compact(folder)
    for _ in range(2):
        assert read("http_requests_total", route="/encode", code="200") == 2
        assert read("http_request_duration_seconds_count", route="/encode") == 2
    assert {process for _, kind, process in files(folder) if kind == "counter"} == {"merged", *living(folder)}


def test_a_full_disk_ends_neither_the_exporter_nor_counts(
    folder: Path, read: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    killed_replicas(folder, "x", "y")
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert read("http_requests_total", route="/encode", code="200") == 2
    assert read("http_requests_total", route="/encode", code="200") == 2
    assert len(list(files(folder))) == FILES_PER_PROCESS + MERGED_FILES


def test_pages_of_merged_files_exist_before_they_are_written(folder: Path) -> None:
    """A hole in a file on a full disk would kill the exporter."""
    killed_replicas(folder, "x")
    compact(folder)
    merged = [path for path, _, process in files(folder) if process == "merged"]
    assert len(merged) == MERGED_FILES
    assert all(path.stat().st_blocks * 512 >= path.stat().st_size for path in merged)


class FakeNvml:
    """A library with one device, whose fan of sensors is not complete, and one that is lost."""

    driver = True

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0

    class NVMLError(Exception):
        pass

    def __getattr__(self, name: str) -> object:
        answers = {
            "GetCount": 2 if self.driver else None,
            "GetHandleByIndex": "device",
            "GetName": "H200",
            "GetUUID": "GPU-1",
            "GetPowerUsage": 350_500,
            "GetClockInfo": 1980,
            "GetCurrentClocksThrottleReasons": 0x4,
        }

        def call(*arguments: object) -> object:
            answer = answers.get(name.removeprefix("nvmlDevice"))
            if answer is None or arguments == (1,):
                raise self.NVMLError(name)
            return answer

        return call


def test_a_gpu_shows_what_it_can_and_a_machine_without_one_nothing() -> None:
    nvml = FakeNvml()
    samples = [sample for metric in GpuCollector(nvml).collect() for sample in metric.samples]
    shown = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    assert shown["omnitok_gpu_power_watts", "0"] == 350.5
    assert shown["omnitok_gpu_sm_clock_hertz", "0"] == 1.98e9
    assert shown["omnitok_gpu_throttled", "0", "power"] == 1
    assert shown["omnitok_gpu_throttled", "0", "thermal"] == 0
    assert ("omnitok_gpu_temperature_celsius", "0") not in shown
    assert [sample.labels["gpu"] for sample in samples if sample.name == "omnitok_gpu_info"] == ["0"]
    nvml.driver = False
    assert not [sample for metric in GpuCollector(nvml).collect() for sample in metric.samples]
    assert list(GpuCollector(None).collect()) == []


def test_the_exporter_starts_by_itself_and_gives_its_port_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.metrics.exporter_supervisor.END_SECONDS", waiting.SECONDS)
    IngressMetrics("me").observe(FinishedRequest("/encode", "POST", 200, 0.25, 3, 4, None, {}))
    before, after = free_port(), free_port()
    starts: set[float] = set()
    try:
        for port in (before, after):  # the second is that of a later deployment
            one = ExporterSupervisor(folder, "127.0.0.1", port, {"tmp": folder})
            one.start()
            families = {family.name: family for family in text_string_to_metric_families(fetch(port))}
            starts.add(families["omnitok_start_time_seconds"].samples[0].value)
            one.close()
        assert len(starts) == 1
        assert sum(sample.value for sample in families["omnitok_http_requests"].samples) == 1
        assert {"omnitok_build_info", "omnitok_filesystem_free_bytes", "omnitok_metrics_series"} <= set(families)
    finally:
        stop(folder)
    for port in (before, after):
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)


def test_of_many_replicas_one_starts_the_exporter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []
    starting: list[int] = []
    most: list[int] = []

    def running(folder: Path) -> tuple[int, list[str]] | None:
        looks.append(folder)
        return look(folder)

    def start(command: list[str], **options: Any) -> None:
        starting.append(1)
        waiting.eventually(lambda: len(looks) > 3 * len(supervisors) or len(starting) > 1)  # the others look meanwhile
        most.append(len(starting))
        run(command, **options)
        starting.pop()

    run, look = subprocess.run, exporter_supervisor._running
    monkeypatch.setattr(exporter_supervisor, "_running", running)
    monkeypatch.setattr(exporter_supervisor.subprocess, "run", start)
    monkeypatch.setattr(exporter_supervisor, "POLL_SECONDS", 0.1)
    port = free_port()
    supervisors = [ExporterSupervisor(folder, "127.0.0.1", port, {"tmp": folder}) for _ in range(4)]
    try:
        for one in supervisors:
            one.start()
        fetch(port)
    finally:
        for one in supervisors:
            one.close()
        stop(folder)
    assert set(most) == {1}


def test_an_exporter_is_started_after_what_nobody_foresaw(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_supervisor, "POLL_SECONDS", 0.0)
    starts, started = iter([LookupError("nobody foresaw this")]), threading.Event()

    def start(self: ExporterSupervisor) -> None:
        if error := next(starts, None):
            raise error
        started.set()

    monkeypatch.setattr(ExporterSupervisor, "_start_exporter", start)
    one = ExporterSupervisor(folder, "127.0.0.1", free_port(), {})
    one.start()
    assert started.wait(waiting.SECONDS)
    one.close()


def fetch(port: int) -> str:
    """Return what the exporter shows once it answers."""
    texts: list[str] = []

    def answers() -> bool:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=waiting.SECONDS) as answer,
        ):
            texts.append(answer.read().decode())
        return bool(texts)

    waiting.eventually(answers, pause=0.1)
    return texts[0]


def test_living_processes_are_told_from_dead_ones(folder: Path) -> None:
    killed_replicas(folder, "x")
    assert len(living(folder)) == 1
    compact(folder)
    every, _ = registry(folder, {})
    assert b"omnitok_metrics_files 6.0" in generate_latest(every)
