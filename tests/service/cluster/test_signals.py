"""A call that is shielded from signals: they end the wait for it, whatever it does with them."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path

import pytest
from waiting import eventually

from service.cluster.signals import SIGNALS, StoppedError, shielded

PR_SET_PDEATHSIG = 1


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def waits(process: int, number: signal.Signals) -> bool:
    """Return whether a main thread, which blocks a signal, waits for it: the kernel lifts the block meanwhile."""
    status = Path(f"/proc/{process}/status").read_text()
    (blocked,) = re.findall(r"^SigBlk:\s*(\w+)", status, re.MULTILINE)
    return not int(blocked, 16) >> (number - 1) & 1


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_wait_for_a_call_that_goes_on(number: signal.Signals) -> None:
    over = threading.Event()

    def call() -> None:
        eventually(lambda: waits(os.getpid(), number))
        os.kill(os.getpid(), number)
        over.wait()

    with pytest.raises(StoppedError), shielded(call):
        pytest.fail("the call has not returned")
    over.set()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()).intersection(SIGNALS)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_as_the_call_returns_is_one_before(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would interrupt whoever has not been given yet what the call has started."""

    class Returned(Future[None]):
        def done(self) -> bool:
            wait([self])
            return super().done()

    monkeypatch.setattr("service.cluster.signals.Future", Returned)
    main = threading.get_ident()
    with pytest.raises(KeyboardInterrupt) as raised, shielded(lambda: signal.pthread_kill(main, number)):
        pytest.fail("the signal came first")
    assert raised.type is StoppedError


def test_a_call_cannot_take_sigterm_for_itself() -> None:
    """Its handler is one of C's, which Python's cannot hold back: as Ray's, it prints a stack."""
    code = (
        "import faulthandler, os, signal, sys, threading, time\n"
        "from service.cluster.signals import StoppedError, shielded\n"
        "def call():\n"
        "    faulthandler.register(signal.SIGTERM)\n"
        "    print('taken', flush=True)\n"
        "    threading.Event().wait()\n"
        "try:\n"
        "    with shielded(call): pass\n"
        "except StoppedError: sys.exit(3)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        eventually(lambda: waits(process.pid, signal.SIGTERM))
        process.send_signal(signal.SIGTERM)
        assert process.communicate()[1] == ""
        assert process.returncode == 3


def test_sighup_stays_ignored_as_nohup_has_it() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with shielded(lambda: signal.raise_signal(signal.SIGHUP)):
        signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_a_signal_is_as_ctrl_c_after_the_call(number: signal.Signals) -> None:
    with shielded(lambda: None), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_a_terminal_that_closes_is_one_signal_though_its_shell_repeats_it() -> None:
    with shielded(lambda: None):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)


def test_a_terminal_that_closes_before_the_call_returns_is_one_signal_too() -> None:
    over = threading.Event()

    def call() -> None:
        eventually(lambda: waits(os.getpid(), signal.SIGHUP))
        os.kill(os.getpid(), signal.SIGHUP)
        over.wait()

    with pytest.raises(StoppedError), shielded(call):
        pytest.fail("the call has not returned")
    signal.raise_signal(signal.SIGHUP)
    over.set()


def test_what_it_starts_knows_its_signals_and_lives_as_long_as_the_context() -> None:
    libc = ctypes.CDLL(None)

    def call() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sleep", "inf"], preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        )

    with shielded(call) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^SigBlk:\s*0+5$", status, re.MULTILINE), "SIGHUP and SIGQUIT are for the service alone"
        assert process.poll() is None
    assert process.wait() == -signal.SIGKILL


def test_an_error_of_the_call_is_raised() -> None:
    def call() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"), shielded(call):
        pytest.fail("the call has failed")
