"""Attempts of a captured decoder on the world: all of them denied, for root and for a user without rights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from attacker import attempts

from service.sandbox import restrictions, seccomp

ROOT = Path(__file__).parents[3]
NOBODY = 65534
USERS = [os.getuid(), *([NOBODY] if os.getuid() == 0 else [])]
# Without a sandbox these need rights that the tests may lack, or a kernel that has them.
RARE = {
    "raw socket",
    "packet socket",
    "vsock socket",
    "crypto socket",
    "MPTCP connect",
    "setxattr",
    "more processes",
    "more memory",
    "chown",
    "unlink",
    "rename",
}
REFUSALS = {"thread": "RuntimeError", "more processes": "ValueError", "more memory": "ValueError"}
with TemporaryDirectory() as folder:
    (Path(folder) / "victim").write_bytes(b"x")
    ATTEMPTS = list(attempts(Path(folder), 0, os.getpid()))

pytestmark = pytest.mark.skipif(restrictions.landlock_version() < 1, reason="this kernel has no Landlock")


@cache
def outcomes(uid: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return how each attempt went outside a worker and inside one."""
    victim = subprocess.Popen(["cat"], stdin=subprocess.PIPE)  # lives until its input ends
    listener, unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    with victim, listener, unix, TemporaryDirectory() as folder:
        (Path(folder) / "victim").write_bytes(b"x")
        unix.bind(f"{folder}/socket")
        unix.listen()
        path = os.pathsep.join([str(ROOT), *sys.path])
        command = [sys.executable, str(Path(__file__).with_name("attacker.py")), str(uid), folder]
        command += [str(listener.getsockname()[1]), str(victim.pid)]
        done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr
    outside, inside = json.loads(done.stdout)
    return outside, inside


@pytest.mark.parametrize("uid", USERS)
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_captured_worker_can_do_nothing(attempt: str, uid: int) -> None:
    outside, inside = outcomes(uid)
    expected = "killed" if attempt in seccomp.FATAL else REFUSALS.get(attempt, "PermissionError")
    assert inside[attempt] == expected
    if attempt not in RARE | set(seccomp.FATAL):
        assert outside[attempt] == "allowed"  # or its denial would show nothing


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_call_has_one_verdict(machine: str) -> None:
    column = ["x86_64", "aarch64"].index(machine)
    numbers = [
        numbers[column]
        for table in (seccomp.ALLOWED, seccomp.CONDITIONAL, seccomp.FATAL)
        for numbers in table.values()
        if numbers[column] is not None
    ]
    assert len(numbers) == len(set(numbers))
