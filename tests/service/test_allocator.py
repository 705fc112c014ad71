"""Freed memory that a process keeps."""

from __future__ import annotations

import subprocess
import sys

PICTURES = """
import resource, sys
from service.allocator import keep_freed_blocks
if sys.argv[1] == "keep":
    keep_freed_blocks()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    first, second = bytearray(700_000), bytearray(600_000)
for _ in range(4):
    use()
before = faults()
for _ in range(20):
    use()
print(faults() - before)
"""


def _faults(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", PICTURES, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_blocks_of_the_size_of_pictures_are_kept_for_the_next_ones() -> None:
    assert _faults("give back") > 20 * 100  # without it this test would show nothing
    assert _faults("keep") < 100
