"""Processes of this machine by descent."""

from __future__ import annotations

import os
import subprocess
import sys

from service.cluster.process_tree import descendants, ended_children

NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'a\\xe3\\x81', 0, 0, 0); print(flush=True); input()"  # PR_SET_NAME


def test_a_name_that_the_kernel_has_cut_within_a_letter_hides_no_process() -> None:
    """It keeps 15 bytes; such a process of anybody is among those of the machine."""
    command = [sys.executable, "-c", NAMED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert process.pid in descendants(os.getpid())
        finally:
            process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.pid not in descendants(os.getpid())
        assert "a\N{REPLACEMENT CHARACTER}" in ended_children()
