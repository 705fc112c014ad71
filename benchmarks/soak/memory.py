"""Memory of processes over time: rows on disk, the growth of each, and a plot."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import markdown_table
from training.plots import plotting

SIZE = (9.0, 6.0)  # inches
MEDIAN_OF = 5  # samples at either end, so that one request in flight does not count


@dataclass(frozen=True)
class Sample:
    """The memory of one process at one moment.

    Args:
        seconds: since the start.
        pid, name: of the process.
        mib: resident memory.
        descriptors: open, all processes of this name together.
    """

    seconds: float
    pid: int
    name: str
    mib: float
    descriptors: int


@dataclass(frozen=True)
class Growth:
    """The growth of one process.

    Args:
        pid, name: of the process.
        first, last: MiB at either end of the time after the warm-up.
        minutes: between them.
    """

    pid: int
    name: str
    first: float
    last: float
    minutes: float

    @property
    def mib(self) -> float:
        """Return the growth."""
        return self.last - self.first


class Samples:
    """Samples, on disk as they come.

    Args:
        path: of the table.
    """

    def __init__(self, path: Path) -> None:
        self.samples: list[Sample] = []
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(Sample.__dataclass_fields__)

    def add(self, sample: Sample) -> None:
        """Keep a sample."""
        self.samples.append(sample)
        self._writer.writerow((sample.seconds, sample.pid, sample.name, f"{sample.mib:.2f}", sample.descriptors))
        self._file.flush()


def growths(samples: list[Sample], warm_up: float) -> Iterator[Growth]:
    """Yield the growth of each process that lived long enough, the largest first.

    Args:
        samples: of a run.
        warm_up: seconds at the start that do not count.
    """
    by_process: defaultdict[tuple[int, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.seconds >= warm_up:
            by_process[sample.pid, sample.name].append(sample)
    found = []
    for (pid, name), own in by_process.items():
        if len(own) >= 2 * MEDIAN_OF:
            first, last = (statistics.median(one.mib for one in part) for part in (own[:MEDIAN_OF], own[-MEDIAN_OF:]))
            found.append(Growth(pid, name, first, last, (own[-1].seconds - own[0].seconds) / 60))
    yield from sorted(found, key=lambda growth: -growth.mib)


def table(rows: list[Growth]) -> Iterator[str]:
    """Return the lines of a Markdown table."""
    columns = ("process", "minutes", "MiB at first", "MiB at last", "growth, MiB")
    return markdown_table(
        columns,
        (
            (f"{row.name} {row.pid}", f"{row.minutes:.0f}", f"{row.first:.1f}", f"{row.last:.1f}", f"{row.mib:+.1f}")
            for row in rows
        ),
    )


def plot(samples: list[Sample], warm_up: float, path: Path) -> None:
    """Draw the growth of each process since the warm-up."""
    by_process: defaultdict[tuple[int, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        by_process[sample.pid, sample.name].append(sample)
    with plotting(path, SIZE) as figure:
        axes = figure.subplots()
        for (pid, name), own in by_process.items():
            base = next((one.mib for one in own if one.seconds >= warm_up), None)
            if base is not None and len(own) > 1:
                label = f"{name} {pid}" if own[-1].seconds >= samples[-1].seconds else None
                axes.plot(
                    [one.seconds / 60 for one in own], [one.mib - base for one in own], linewidth=0.9, label=label
                )
        axes.axvline(warm_up / 60, color="grey", linewidth=0.8)
        axes.axhline(20, color="black", linewidth=0.8)
        axes.set(xlabel="minutes", ylabel="MiB above the end of the warm-up", ylim=(-60, 60))
        axes.legend(loc="lower left", fontsize=6, ncols=2)
