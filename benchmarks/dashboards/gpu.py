"""GPU: use, memory, power, clocks and heat, by NVML. A machine without one shows nothing."""

from __future__ import annotations

from functools import partial

from benchmarks.dashboards.board import INSTANCE, Board
from benchmarks.dashboards.panels import AMBER, GREEN, RED, gauge, rows_of, series, total, value

GPU = 'gpu=~"$gpu"'
number = partial(value, none="no GPU")
NOW = [
    number("GPUs", "none", "count (omnitok_gpu_info)", "That the nodes see now.", (GREEN,)),
    number(
        "Use",
        "percentunit",
        "avg (omnitok_gpu_utilization_ratio)",
        "Share of the time in which a kernel ran, mean of all GPUs. Low use with a full queue: something else is slow.",
        (GREEN,),
    ),
    number(
        "Fullest memory",
        "percentunit",
        "max (omnitok_gpu_memory_used_bytes / omnitok_gpu_memory_total_bytes)",
        "97 % opens a ticket.",
        (GREEN, 0.9, AMBER, 0.97, RED),
    ),
    number(
        "Hottest",
        "celsius",
        "max (omnitok_gpu_temperature_celsius)",
        "87 C opens a ticket.",
        (GREEN, 80.0, AMBER, 87.0, RED),
    ),
    number(
        "Slowed by heat",
        "none",
        'sum (omnitok_gpu_throttled{reason="thermal"})',
        "GPUs that run slower since they are hot.",
        (GREEN, 1.0, RED),
    ),
    number(
        "Memory errors", "none", "sum (omnitok_gpu_ecc_errors_total)", "Uncorrected, since boot.", (GREEN, 1.0, RED)
    ),
]
LINES = [
    series(
        "Use",
        "percentunit",
        gauge("gpu_utilization_ratio", "instance, gpu", GPU),
        "Share of the time in which a kernel ran.",
        most=1.0,
    ),
    series(
        "Memory",
        "bytes",
        {
            "used": gauge("gpu_memory_used_bytes", "instance, gpu", GPU),
            "there": gauge("gpu_memory_total_bytes", "instance, gpu", GPU),
        },
        "Of each device, all processes.",
    ),
    series(
        "Power",
        "watt",
        {
            "": gauge("gpu_power_watts", "instance, gpu", GPU),
            "limit": gauge("gpu_power_limit_watts", "instance, gpu", GPU),
        },
        "At its limit a GPU lowers its clocks.",
    ),
    series(
        "Clocks",
        "hertz",
        {
            "SM": gauge("gpu_sm_clock_hertz", "instance, gpu", GPU),
            "SM, most": gauge("gpu_sm_clock_max_hertz", "instance, gpu", GPU),
            "memory": gauge("gpu_memory_clock_hertz", "instance, gpu", GPU),
        },
        "Of the processors and of the memory.",
    ),
    series(
        "Temperature",
        "celsius",
        gauge("gpu_temperature_celsius", "instance, gpu", GPU),
        "Of the chip.",
        limit=(87.0, RED),
    ),
    series(
        "Throttled",
        "bool_on_off",
        {"{{reason}} {{instance}} {{gpu}}": gauge("gpu_throttled", "instance, gpu, reason", GPU)},
        "By power it is usual at full load, by heat it is not.",
        most=1.0,
    ),
]
RARE = [
    series(
        "Memory errors, total",
        "short",
        total("gpu_ecc_errors_total", "instance, gpu", GPU),
        "Uncorrected, since boot. Any is a reason to replace the card.",
    ),
    series(
        "Batches that did not fit, total",
        "short",
        total("batch_splits_total", "instance", 'failure="memory"'),
        "Batches whose halves ran again since memory was short.",
    ),
    rows_of(
        "Devices",
        'omnitok_gpu_info{instance=~"$instance"}',
        "The GPUs of all nodes.",
        ["instance", "gpu", "name", "uuid"],
    ),
]
BOARD = Board(
    "gpu",
    "GPU",
    "The devices, as NVML sees them.",
    {"Now": NOW, "Devices": LINES, "Rare events": RARE},
    {"instance": INSTANCE, "gpu": "label_values(omnitok_gpu_info, gpu)"},
)
