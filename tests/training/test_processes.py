"""Processes of a pool end with the one that started them, also if that one is killed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from waiting import eventually

from service.metrics.folder import process_name

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
        worker = int(owner.stdout.readline())
        assert process_name(worker) is not None
        owner.kill()
    eventually(lambda: process_name(worker) is None)
