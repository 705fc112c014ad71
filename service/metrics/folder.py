"""The files in which processes of one node count: one set a process, in memory that outlives it."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

GAUGES = ("gauge_livesum", "gauge_livemax")
# Of each kind a process has one file of so many bytes. They are there before the first event: a page that a full disk
# cannot give would end the process.
FILE_BYTES = {"counter": 2**17, "histogram": 2**19, **dict.fromkeys(GAUGES, 2**15)}
MERGED = "merged"  # in place of a process, in the names of files that hold the sums of those that ended
ENTRY_BYTES = 40  # of a value in such a file without its key, at most


def join(folder: Path) -> None:
    """Have this process count in files of its own from now on; metrics made before stay in its memory alone.

    Raises:
        OSError: the folder cannot hold them.
    """
    name = process_name(os.getpid())
    assert name is not None
    for kind, size in FILE_BYTES.items():
        _create(folder / f"{kind}_{name}.db", size)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.fspath(folder)  # prometheus-client takes no argument
    values.ValueClass = values.MultiProcessValue(lambda: name)  # and decides by that variable when it is imported


def process_name(pid: int) -> str | None:
    """Return a name that no other process of this node has or had, or None if none of that id runs."""
    try:
        state, *_, started = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:20]
    except OSError:
        return None
    return None if state in "ZX" else f"{pid}-{started}"


def is_alive(name: str) -> bool:
    """Return whether the process of that name still runs."""
    return process_name(int(name.partition("-")[0])) == name


def files(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield each file with its kind and the name of its process."""
    for path in folder.glob("*.db"):
        kind, _, process = path.stem.rpartition("_")
        yield path, kind, process


def living(folder: Path) -> set[str]:
    """Return the names of the processes that count in a folder and run."""
    return {process for _, kind, process in files(folder) if kind in GAUGES and is_alive(process)}


def compact(folder: Path) -> None:
    """Add what ended processes counted to one file a kind, and remove their files; their gauges go.

    One process at a time may do this, and nobody may read the folder meanwhile. On a full disk the files stay and
    count as they are.
    """
    for journal in folder.glob("*.journal"):
        _finish(journal)  # of a merge during which its process was killed
    dead: defaultdict[str, list[Path]] = defaultdict(list)
    alive: dict[str, bool] = {}
    for path, kind, process in files(folder):
        if process != MERGED and not alive.setdefault(process, is_alive(process)):
            dead[kind].append(path)
    for path in itertools.chain.from_iterable(dead.pop(kind, []) for kind in GAUGES):
        path.unlink()
    for kind, paths in dead.items():
        with contextlib.suppress(OSError):
            _merge(folder / f"{kind}_{MERGED}.db", paths)


def _merge(target: Path, paths: Sequence[Path]) -> None:
    """Add files to the target and remove them; each counts once, wherever the process is killed."""
    sums: defaultdict[str, float] = defaultdict(float)
    for path in (target, *paths):
        with contextlib.suppress(FileNotFoundError):
            for key, value, _, _ in MmapedDict.read_all_values_from_file(path):
                sums[key] += value
    fresh, journal, draft = (target.with_suffix(suffix) for suffix in (".new", ".journal", ".draft"))
    _create(fresh, ENTRY_BYTES + sum(len(key.encode()) + ENTRY_BYTES for key in sums))
    merged = MmapedDict(os.fspath(fresh))
    for key, value in sums.items():
        merged.write_value(key, value, 0.0)
    merged.close()
    draft.write_text("\n".join(path.name for path in paths))
    draft.rename(journal)
    fresh.rename(target)
    _finish(journal)


def _finish(journal: Path) -> None:
    """Remove the files that a merge added up, if it came to its end; else they still count."""
    if not journal.with_suffix(".new").exists():
        for name in journal.read_text().split():
            (journal.parent / name).unlink(missing_ok=True)
    journal.unlink()


def _create(path: Path, size: int) -> None:
    """Make a file of zeros whose pages exist, and show it when it is whole."""
    handle, fresh = tempfile.mkstemp(dir=path.parent)
    try:
        os.posix_fallocate(handle, 0, size)
        os.rename(fresh, path)
    except OSError:
        os.unlink(fresh)
        raise
    finally:
        os.close(handle)
