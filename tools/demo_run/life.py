"""The host's process: whether it lives, and a fresh one where it does not.

`python -m tools.demo_run.life WORK [OPTIONS of host.py]` starts it in a group of its own, so that it outlives the call.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SILENT_S = 10  # the host writes its status twice a second
PATIENCE_S = 2  # a machine that stood still between two calls gives its processes time to speak
CODE = ("kernels", "media", "model", "training", "tools")


def read_status(work: Path) -> dict[str, Any]:
    """Return what the host wrote last; nothing before its first word."""
    path = work / "status.json"
    status: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return status


def process_of(work: Path) -> int | None:
    """Return the id of the host's process; None where it is gone."""
    try:
        number = int((work / "pid").read_text())
        # empty for a process that has ended and that nobody has waited for
        return number if b"demo_run.host" in Path(f"/proc/{number}/cmdline").read_bytes() else None
    except OSError:
        return None


def lives(work: Path) -> bool:
    """Return whether the host's process is there and writes its status."""
    begun = time.monotonic()
    while process_of(work) is not None:
        said = max(path.stat().st_mtime for path in (work / "pid", work / "status.json") if path.exists())
        if time.time() - said < SILENT_S:
            return True
        if time.monotonic() - begun > PATIENCE_S:
            return False
        time.sleep(0.1)
    return False


def start(work: Path, options: list[str]) -> None:
    """Start a host, with the options of the first one and the code of this call."""
    if (silent := process_of(work)) is not None:
        os.kill(silent, signal.SIGKILL)
    kept = work / "options.json"
    if not kept.exists():
        kept.write_text(json.dumps(options))
    for name in CODE:  # a copy: later calls may write the tree anew under the running run
        shutil.rmtree(work / "code" / name, ignore_errors=True)
        shutil.copytree(name, work / "code" / name)
    command = [sys.executable, "-m", "tools.demo_run.host", ".", *json.loads(kept.read_text())]
    with (work / "supervisor.log").open("ab") as log:
        # nothing of it may hold this call's pipes, which would keep the call waiting
        process = subprocess.Popen(
            command, cwd=work, env=os.environ | {"PYTHONPATH": "code"}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    (work / "pid").write_text(str(process.pid))


def main() -> None:
    """Start a host unless one lives or the run has ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    arguments, options = parser.parse_known_args()
    if not read_status(arguments.work).get("ended") and not lives(arguments.work):
        start(arguments.work, options)


if __name__ == "__main__":
    main()
