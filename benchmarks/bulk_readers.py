"""The profile of processes that read JPEGs: CPU time by stage, and what the machine gives so many at a time."""

from __future__ import annotations

import hashlib
import io
import mmap
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from media.images import StillReader
from media.reader import open_frames
from media.types import SampleWindow
from model.codes.info import EncodingOptions
from service.allocator import keep_freed_blocks
from service.bulk.decoder import Slot, SlotWriter
from service.bulk.reading import media_options, read_bytes
from service.bulk.sources import Item

SLOT_BYTES = 16 * 2**20
START_SECONDS = 60.0
# Each shows one limit: the clock and what shares a core, special instructions, the memory's bandwidth, page faults.
PROBES = ("loop", "digest", "copy", "page")
LOOP_STEPS, DIGESTED_BYTES, COPIED_BYTES, TOUCHED_PAGES = 100_000, 2**20, 64 * 2**20, 256
CPU_FLAGS = ("sha_ni", "avx2", "avx512bw", "hypervisor")
STAGES = ("bytes", "hash", "headers", "decode", "share")


class Counters:
    """CPU seconds by name, of the calling thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def count(self, name: str) -> Iterator[None]:
        """Add what the enclosed code takes."""
        started = time.thread_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - started


def machine() -> str:
    """Return the processor, its threads and what it can do, one line."""
    text = Path("/proc/cpuinfo").read_text()
    fields = [line.partition(":") for line in text.splitlines()]
    values = {name.strip(): value.strip() for name, _, value in reversed(fields)}
    flags = values.get("flags", "").split()
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    shared = siblings.read_text().strip() if siblings.exists() else "unknown"
    clocks = sorted(float(value) for name, _, value in fields if name.strip() == "cpu MHz") or [0.0]
    able = " ".join(flag if flag in flags else f"no {flag}" for flag in CPU_FLAGS)
    return (
        f"{values.get('model name', 'unknown processor')}, {len(os.sched_getaffinity(0))} threads here, thread 0 on "
        f"the core of threads {shared}, {clocks[0]:.0f} to {clocks[-1]:.0f} MHz, {able}"
    )


def profile(items: list[Item], options: EncodingOptions, processes: int, seconds: float) -> str:
    """Read JPEGs in so many processes of their own at a time; return their rate and where the time goes, one line.

    Args:
        items: read again and again.
        options: the pixels that are wanted.
        processes: number of them.
        seconds: to measure.
    """
    context = multiprocessing.get_context("fork")  # quick, and the parent has used neither threads nor CUDA
    begin, ends = context.Event(), [context.Pipe(duplex=False) for _ in range(processes)]
    arguments = [
        (items[number:] + items[:number], options, seconds, begin, end) for number, (_, end) in enumerate(ends)
    ]
    started = [context.Process(target=_read, args=one, daemon=True) for one in arguments]
    for process in started:
        process.start()
    for receiver, _ in ends:
        _receive(receiver, START_SECONDS)
    stolen = _stolen_seconds()
    begin.set()
    found = [_receive(receiver, START_SECONDS + 3 * seconds) for receiver, _ in ends]
    stolen = _stolen_seconds() - stolen
    for process in started:
        process.join()
    return _line(processes, found, stolen)


def _receive(receiver: Connection, seconds: float) -> dict[str, float]:
    if not receiver.poll(seconds):
        raise TimeoutError(f"A process that reads did not answer for {seconds:g} s.")
    answer: dict[str, float] = receiver.recv()
    return answer


def _line(processes: int, found: list[dict[str, float]], stolen: float) -> str:
    items = sum(one["items"] for one in found)
    rate = sum(one["items"] / one["wall"] for one in found)
    each = {name: sum(one[name] for one in found) / items for name in found[0]}
    ms = {name: f"{1000 * value:.3f}" for name, value in each.items()}
    probe = {name: sum(one[name] for one in found) / processes for name in PROBES}
    return (
        f"{processes} processes: {rate:,.0f}/s; ms an item: wall {ms['wall']}, CPU {ms['cpu']} ({ms['system']} in the "
        f"kernel): {', '.join(f'{name} {ms[name]}' for name in STAGES)}; an item: {each['faults']:.2f} page faults, "
        f"{each['switches']:.3f} switches by force; {stolen:.1f} s stolen; so many at a time: a step of a loop "
        f"{1e9 * probe['loop'] / LOOP_STEPS:.1f} ns, SHA-256 {DIGESTED_BYTES / probe['digest'] / 1e9:.2f} GB/s, copies "
        f"{2 * COPIED_BYTES / probe['copy'] / 1e9:.1f} GB/s, a fresh page {1e6 * probe['page'] / TOUCHED_PAGES:.2f} us"
    )


def _read(items: Sequence[Item], options: EncodingOptions, seconds: float, begin: Any, end: Connection) -> None:
    """Read items by stages, then take the probes; send the counters."""
    keep_freed_blocks()
    memory, slot = mmap.mmap(-1, SLOT_BYTES), Slot(0, SLOT_BYTES)
    counters = Counters()
    for item in items[:16]:
        _read_item(item, options, SlotWriter(memory, slot), counters)
    counters.seconds.clear()
    end.send({})
    begin.wait()
    before, wall, cpu, count = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        if count % 16 == 0:
            writer = SlotWriter(memory, slot)
        _read_item(items[count % len(items)], options, writer, counters)
        count += 1
    passed, used, after = (
        time.perf_counter() - wall,
        time.process_time() - cpu,
        resource.getrusage(resource.RUSAGE_SELF),
    )
    totals = {"items": float(count), "wall": passed, "cpu": used, "system": after.ru_stime - before.ru_stime}
    totals |= {"faults": after.ru_minflt - before.ru_minflt, "switches": after.ru_nivcsw - before.ru_nivcsw}
    end.send(totals | counters.seconds | _probes(seconds / 8))


def _read_item(item: Item, options: EncodingOptions, writer: SlotWriter, counters: Counters) -> None:
    """Do what `service.bulk.reading` does with a JPEG that the device resizes."""
    with counters.count("bytes"):
        data = read_bytes(item)
    with counters.count("hash"):
        hashlib.sha256(data).hexdigest()
    with counters.count("headers"):
        reader = open_frames(io.BytesIO(data), None, media_options("images", options), window=SampleWindow())
        assert isinstance(reader, StillReader)
    with counters.count("decode"):
        pixels, _ = reader.read_source()
    with counters.count("share"):
        writer.put(pixels)


def _probes(seconds: float) -> dict[str, float]:
    """Return the mean CPU seconds of each probe, which all processes take at a time."""
    source, target = np.ones(COPIED_BYTES, np.uint8), np.ones(COPIED_BYTES, np.uint8)
    block = bytes(DIGESTED_BYTES)

    def loop() -> None:
        total = 0
        for step in range(LOOP_STEPS):
            total += step

    def touch() -> None:
        with mmap.mmap(-1, TOUCHED_PAGES * mmap.PAGESIZE) as fresh:
            fresh[:: mmap.PAGESIZE] = bytes(TOUCHED_PAGES)

    probes: dict[str, Callable[[], Any]] = {
        "loop": loop,
        "digest": lambda: hashlib.sha256(block).digest(),
        "copy": lambda: np.copyto(target, source),
        "page": touch,
    }
    return {name: _mean_seconds(probe, seconds) for name, probe in probes.items()}


def _mean_seconds(probe: Callable[[], Any], seconds: float) -> float:
    started, cpu, count = time.perf_counter(), time.thread_time(), 0
    while not count or time.perf_counter() - started < seconds:
        probe()
        count += 1
    return (time.thread_time() - cpu) / count


def _stolen_seconds() -> float:
    """Return the CPU time that the host gave to others while this machine wanted it."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")
