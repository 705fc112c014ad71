"""GPUs by NVIDIA's management library; a machine without one has no such series."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.metrics.definitions import PREFIX

MEGAHERTZ = 1_000_000
THROTTLES = {  # bits of NVML's reasons for lower clocks
    "power": 0x4 | 0x80,
    "thermal": 0x20 | 0x40 | 0x8,
}


@dataclass(frozen=True)
class _Reading:
    """A gauge of a device.

    Args:
        name: of the metric.
        help: one line.
        read: returns the value, from the library and the handle of the device.
    """

    name: str
    help: str
    read: Callable[[Any, Any], float]


READINGS = (
    _Reading(
        "gpu_utilization_ratio",
        "Share of the last moment in which kernels ran",
        lambda nvml, device: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100,
    ),
    _Reading("gpu_memory_used_bytes", "Memory in use", lambda nvml, device: nvml.nvmlDeviceGetMemoryInfo(device).used),
    _Reading("gpu_memory_total_bytes", "Memory", lambda nvml, device: nvml.nvmlDeviceGetMemoryInfo(device).total),
    _Reading("gpu_power_watts", "Power drawn", lambda nvml, device: nvml.nvmlDeviceGetPowerUsage(device) / 1000),
    _Reading(
        "gpu_power_limit_watts",
        "Power that may be drawn",
        lambda nvml, device: nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000,
    ),
    _Reading(
        "gpu_sm_clock_hertz",
        "Clock of the multiprocessors",
        lambda nvml, device: MEGAHERTZ * nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
    ),
    _Reading(
        "gpu_sm_clock_max_hertz",
        "Highest clock of the multiprocessors",
        lambda nvml, device: MEGAHERTZ * nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_SM),
    ),
    _Reading(
        "gpu_memory_clock_hertz",
        "Clock of the memory",
        lambda nvml, device: MEGAHERTZ * nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
    ),
    _Reading(
        "gpu_temperature_celsius",
        "Temperature",
        lambda nvml, device: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
    ),
)


class GpuCollector(Collector):
    """Use, memory, power, clocks and temperature of each GPU of this machine.

    Args:
        nvml: the module `pynvml`, initialised; None for a machine without a GPU.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def collect(self) -> Iterable[Metric]:
        """Return what each device answers; one that lacks a sensor lacks the series."""
        if self._nvml is None:
            return []
        nvml = self._nvml
        devices = _devices(nvml)
        info = GaugeMetricFamily(f"{PREFIX}gpu_info", "Name of a GPU", labels=["gpu", "name", "uuid"])
        throttled = GaugeMetricFamily(
            f"{PREFIX}gpu_throttled", "Whether a clock is held down", labels=["gpu", "reason"]
        )
        errors = CounterMetricFamily(f"{PREFIX}gpu_ecc_errors", "Uncorrected errors of memory", labels=["gpu"])
        gauges = [GaugeMetricFamily(PREFIX + reading.name, reading.help, labels=["gpu"]) for reading in READINGS]
        for gpu, device in devices.items():
            with contextlib.suppress(nvml.NVMLError):
                info.add_metric([gpu, nvml.nvmlDeviceGetName(device), nvml.nvmlDeviceGetUUID(device)], 1)
            for reading, gauge in zip(READINGS, gauges, strict=True):
                with contextlib.suppress(nvml.NVMLError):
                    gauge.add_metric([gpu], reading.read(nvml, device))
            with contextlib.suppress(nvml.NVMLError):
                reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
                for reason, bits in THROTTLES.items():
                    throttled.add_metric([gpu, reason], float(bool(reasons & bits)))
            with contextlib.suppress(nvml.NVMLError):
                uncorrected, volatile = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                errors.add_metric([gpu], nvml.nvmlDeviceGetTotalEccErrors(device, uncorrected, volatile))
        return [info, *gauges, throttled, errors]


def _devices(nvml: Any) -> dict[str, Any]:
    """Return handles of the devices that answer; a lost one, or all of a lost driver, must not end the scrape."""
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlInit()  # for the next scrape: a driver may come back
        return {}
    devices = {}
    for index in range(count):
        with contextlib.suppress(nvml.NVMLError):
            devices[str(index)] = nvml.nvmlDeviceGetHandleByIndex(index)
    return devices


def nvml() -> Any:
    """Return NVIDIA's library, or None without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
