"""`omnitok tokenize`: a whole data set becomes shards of tokens or latents."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.cli.errors import CommandError
from service.cli.options import BundleOption, Device, choose_bundle

if TYPE_CHECKING:
    from service.bulk.executors import Executor, Report, Workplace
    from service.bulk.job import Estimate, Outcome


def tokenize(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of images and videos (by class), WebDataset tar, Parquet with bytes, or list of files."
        ),
    ],
    dest: Annotated[Path, typer.Argument(help="Folder of the shards; an interrupted run goes on there.")],
    bundle: BundleOption = None,
    size: Annotated[
        str | None, typer.Option(help="Side, or HEIGHTxWIDTH, in pixels.", show_default="each item's own")
    ] = None,
    fit: Annotated[Literal["cover", "contain", "stretch"], typer.Option(help="How pictures fill the size.")] = "cover",
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of every clip.", show_default="each clip's own")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.1, help="Frames per second of clips.", show_default="as recorded")
    ] = None,
    flips: Annotated[bool, typer.Option("--flips", help="Encode mirror images too.")] = False,
    views: Annotated[int, typer.Option(min=1, help="Views of each item: crops, and windows in time.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the views after the first.")] = 0,
    jpeg: Annotated[
        Literal["cpu", "gpu"],
        typer.Option(help="What decodes JPEGs; gpu is its JPEG engines, and leaves CPU cores free."),
    ] = "cpu",
    output: Annotated[
        Literal["tokens", "latents"] | None,
        typer.Option(help="What to write.", show_default="as the bundle is made for"),
    ] = None,
    format: Annotated[Literal["parquet", "tar", "npy"], typer.Option(help="Form of the shards.")] = "parquet",
    kind: Annotated[
        Literal["images", "clips"] | None, typer.Option(help="Encode one kind alone.", show_default="both")
    ] = None,
    shard_items: Annotated[
        int | None, typer.Option(min=1, help="Items of a shard.", show_default="1024 images, 128 clips, 16 whole clips")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete finished shards of another source, or of items that are gone.")
    ] = False,
    device: Annotated[Device, typer.Option(help="Where to encode.")] = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(help="Precision.", show_default="bfloat16 on a GPU, else float32"),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to work on, such as 10.0.0.1:6379.", show_default="this machine")
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs to use; on a cluster, of each tokenizer.", show_default="all")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a sample, say how long it takes, write nothing.")
    ] = False,
) -> None:
    """Encode a data set for training, once, into shards of tokens or latents.

    Items that fail are listed in DEST/quarantine.jsonl; a run that was stopped goes on by the same command.
    `omnitok tokenize photos codes --size 256` encodes a folder, and `--dry-run` says how long that takes.
    """
    from rich.console import Console

    from media.kinds import KINDS
    from model.bundle_files import BundleError
    from model.codes.info import CodesError, EncodingOptions
    from service.bulk.errors import BulkError
    from service.bulk.job import Job, Request

    began = time.perf_counter()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        height, width = _sides(size)
        request = Request(
            source,
            dest,
            choose_bundle(bundle),
            EncodingOptions(height, width, fit, frames, flips, views, fps, seed, jpeg),
            format,
            output,
            (kind,) if kind else KINDS,
            shard_items,
            replace,
        )
        job = Job(request)
        if dry_run:
            place, tokenizers = _this_machine(device, dtype, cpus)
            found = job.estimate(place, tokenizers)
            console.print(f"{job.listing.sentence}: {forecast(found)}")
            return
        _check_packages()
        from service.bulk.pipeline import ray_executor

        outcome = job.finished(device, dtype)  # before Ray starts, which takes seconds
        try:
            if outcome is None:
                with _Progress(console) as progress, ray_executor(address, cpus, device, dtype) as executor:
                    outcome = job.run(executor, progress.begin, progress.report)
        except KeyboardInterrupt:
            console.print("Stopped. The same command goes on where it stopped.")
            raise
    except (BulkError, BundleError, CodesError) as error:
        raise CommandError(str(error)) from error
    console.print(f"{dest}: {summary(outcome, time.perf_counter() - began)}")
    if outcome.failed:
        console.print(f"Failed items: {outcome.failed:,}; {dest / 'quarantine.jsonl'} says why")


def summary(outcome: Outcome, seconds: float) -> str:
    """Describe a run that took so many seconds, its start included."""
    from service.bulk.sources import counted

    rows = outcome.info.rows or {}
    parts = [" and ".join(f"{counted(count, 'rows')} of {name}" for name, count in rows.items())]
    if fresh := outcome.items - outcome.kept:
        rate = rate_text(fresh / outcome.seconds)
        parts.append(
            f"{counted(fresh, 'items')} in {duration(outcome.seconds)} at {rate}, {duration(seconds)} with the start"
        )
    if outcome.kept:
        parts.append(f"{counted(outcome.kept, 'items')} {'was' if outcome.kept == 1 else 'were'} done before")
    return "; ".join(filter(None, parts))


class _Progress:
    """A line with rate, use of the device and time left; on a terminal it moves, elsewhere it comes now and then.

    Args:
        console: of standard error.
    """

    SILENT_SECONDS = 30.0

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._console = console
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._busy: dict[str, float] = {}
        self._done = self._items = self._total = self._failed = 0
        self._device, self._spoke, self._seconds = "", 0.0, 0.0

    def __enter__(self) -> _Progress:
        self._bar.start()
        self._task = self._bar.add_task("starting", total=None)
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, items: int, kept: int, executor: Executor) -> None:
        """Show how much is to be done, and where."""
        place = executor.workplace
        self._total, self._done, self._spoke = items, kept, time.perf_counter()
        self._device = "GPU" if place.device == "cuda" else "CPU"
        self._bar.update(self._task, total=items, completed=kept, description="encoding")
        done = f", {kept:,} of them done before" if kept else ""
        self._console.print(
            f"{items:,} items{done}; tokenizers on {self._device}: {executor.tokenizers}, {place.dtype}; "
            f"readers of each: {place.readers}"
        )

    def report(self, report: Report) -> None:
        """Show a shard that is done."""
        self._busy[report.worker] = report.busy
        self._items += report.items
        self._failed += report.failed
        now = time.perf_counter()
        self._seconds = max(self._seconds, report.seconds)
        rate = self._items / self._seconds
        busy = sum(self._busy.values()) / len(self._busy)
        state = f"{rate_text(rate)}, {self._device} busy {busy:.0%}"
        state += f", {self._failed:,} failed" if self._failed else ""
        self._bar.update(self._task, completed=self._done + self._items, description=state)
        if not self._console.is_terminal and now - self._spoke > self.SILENT_SECONDS:
            self._spoke = now
            left = (self._total - self._done - self._items) / rate
            self._console.print(
                f"{self._done + self._items:,} of {self._total:,} items, {state}, {duration(left)} left"
            )


def rate_text(rate: float) -> str:
    """Return a rate for people, which is above 0 where it is slow."""
    return f"{rate:,.{0 if rate >= 10 else 1}f} items/s"


def forecast(found: Estimate) -> str:
    """Describe the time and the space of a run."""
    about = "" if found.seconds < 1 else "about "
    return (
        f"{about}{duration(found.seconds)} at {rate_text(found.rate)} here, {_bytes(found.bytes)} of shards; "
        f"{found.failed:.1%} of the sample cannot be read."
    )


def _bytes(number: float) -> str:
    return f"{number / 2**20:,.0f} MiB" if number >= 10 * 2**20 else f"{max(1, math.ceil(number / 2**10)):,} KiB"


def duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _sides(size: str | None) -> tuple[int | None, int | None]:
    if size is None:
        return None, None
    height, _, width = size.lower().partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise typer.BadParameter(f"{size!r} is neither a side nor HEIGHTxWIDTH.", param_hint="--size") from None


def _check_packages() -> None:
    from importlib.util import find_spec

    if missing := [name for name in ("pyarrow", "pandas") if find_spec(name) is None]:
        names = " and ".join(missing)
        raise CommandError(f"Ray Data needs {names}, not installed here; run pip install -e '.[bulk]' in a checkout.")


def _this_machine(device: Device, dtype: str | None, cpus: int | None) -> tuple[Workplace, int]:
    """Return the tokenizers of this machine, as Ray would have them."""
    import os

    import torch

    from service.bulk.executors import workplace_of
    from service.engine.device import choose_device

    try:
        chosen = choose_device(device).type
    except ValueError as error:
        raise CommandError(str(error)) from error
    tokenizers = torch.cuda.device_count() if chosen == "cuda" else 1
    cores = cpus or len(os.sched_getaffinity(0))
    return workplace_of(chosen, dtype, max(1, cores // tokenizers)), tokenizers
