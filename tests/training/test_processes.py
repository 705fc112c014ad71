"""Processes of a pool end with the one that started them, also if that one is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import eventually

START = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from training.processes import end_with_parent
pool = ProcessPoolExecutor(1, get_context({method!r}), end_with_parent)
print(pool.submit(os.getpid).result(), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_whose_owner_was_killed_ends(method: str) -> None:
    command = [sys.executable, "-c", START.format(method=method)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        worker = Path("/proc", owner.stdout.readline().strip())
        assert runs(worker)
        owner.kill()
    eventually(lambda: not runs(worker))


def runs(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
