"""CPU time of a service's processes from `/proc`, and the busy share of its GPU."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.cluster.process_tree import descendants

TICKS = os.sysconf("SC_CLK_TCK")
LISTEN = "0A"
GPU_SAMPLE_MS = 200
# Processes that start services; what else they started is not the service.
STARTERS = {"bash", "sh", "dash", "zsh", "fish", "tmux", "sshd", "systemd", "tini", "docker-init", "flock", "timeout"}


@dataclass(frozen=True)
class Process:
    """One process at one moment.

    Args:
        name: what its kind is called, such as `Ingress`.
        seconds: user and system time so far, of threads that ended as well.
    """

    name: str
    seconds: float


def find_service(port: int) -> int:
    """Return the id of the topmost process of the service that listens on a local port.

    Raises:
        ProcessLookupError: nobody listens there, or its owner is not visible.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for pid in _pids():
        if sockets & set(_descriptors(pid)):
            return _topmost(pid)
    raise ProcessLookupError(f"No process that listens on port {port} is visible; name the service by its id (--pid).")


def snapshot(root: int) -> dict[int, Process]:
    """Return a process and all its descendants."""
    found = {}
    for pid in (root, *descendants(root)):
        with suppress(OSError):
            fields = _stat(pid)
            found[pid] = Process(_name(pid), (int(fields[11]) + int(fields[12])) / TICKS)
    return found


def cpu_seconds(before: dict[int, Process], after: dict[int, Process]) -> dict[str, tuple[int, float]]:
    """Return the number of processes and the CPU seconds by name; who ended in between is not counted."""
    spent: dict[str, tuple[int, float]] = {}
    for pid, process in after.items():
        count, seconds = spent.get(process.name, (0, 0.0))
        earlier = before[pid].seconds if pid in before else 0.0
        spent[process.name] = (count + 1, seconds + process.seconds - earlier)
    return spent


class GpuWatch:
    """Samples the share of time in which the GPU ran any kernel, by `nvidia-smi`, where there is one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        if shutil.which("nvidia-smi"):
            query = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"-lms={GPU_SAMPLE_MS}")
            self._process = subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, text=True)

    def stop(self) -> float | None:
        """Return the mean busy share, or None without samples."""
        if self._process is None:
            return None
        self._process.terminate()
        output, _ = self._process.communicate()
        samples = [float(line) for line in output.split() if line.replace(".", "", 1).isdigit()]
        return statistics.fmean(samples) / 100 if samples else None


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str]:
    """Return the fields of `stat` after the name, which may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _descriptors(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield str(entry.readlink())


def _listening(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _topmost(pid: int) -> int:
    """Return the highest ancestor that neither started this process nor is a shell."""
    ours, ancestor = set(), os.getpid()
    while ancestor > 1:
        ours.add(ancestor)
        ancestor = _parent(ancestor)
    while (parent := _parent(pid)) > 1 and parent not in ours:
        if Path(f"/proc/{parent}/comm").read_text(errors="replace").strip() in STARTERS:
            break
        pid = parent
    return pid


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    if words[0].startswith("ray::"):
        title = words[0].removeprefix("ray::").split()[0].rpartition(":")[2]
        return title.partition(".")[0]  # the title of a running call names its method
    if "service.sandbox.worker" in " ".join(words):
        return "media worker"
    if not Path(words[0]).name.startswith("python"):
        return Path(words[0]).name or Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    rest = [word for word in words[1:] if word]
    if "-m" in rest[:-1]:
        return rest[rest.index("-m") + 1]
    return next((Path(word).name for word in rest if not word.startswith("-")), "python")
