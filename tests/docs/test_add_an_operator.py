"""The operator of docs/how-to/add-an-operator.md works as the page prints it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/add-an-operator.md").read_text(encoding="utf-8")


def test_the_operator_of_the_page(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    files = re.findall(r"^```python\n# ([\w/.]+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(files) == 6
    for name, text in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "check.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = re.search(r"It prints `(.*?)`\.", PAGE, re.DOTALL)
    assert printed
    assert done.stdout.split() == printed[1].split()
