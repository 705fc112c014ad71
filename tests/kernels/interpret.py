"""Tests of kernels in Triton's interpreter, which must be enabled before a kernel is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def passed_interpreted(*operators: str) -> int:
    """Run `interpreted_<operator>.py` in a new process and return the number of tests; all must pass."""
    files = [HERE / f"interpreted_{operator}.py" for operator in operators]
    call = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", *map(str, files)]
    interpreting = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, env=interpreting, capture_output=True, text=True, cwd=HERE.parents[1], check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    count = re.search(r"(\d+) passed", done.stdout)
    assert count is not None, done.stdout[-5000:]
    return int(count[1])
