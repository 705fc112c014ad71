"""A call that signals cannot disturb: SIGINT, SIGTERM, SIGQUIT and SIGHUP end the wait for it instead."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import NoReturn, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
OURS_ALONE = (signal.SIGQUIT, signal.SIGHUP)  # a terminal sends them to Ray's processes too, which would end at once
RETURNED = signal.SIGURG  # ignored where nobody waits for it
T = TypeVar("T")


class StoppedError(KeyboardInterrupt):
    """A signal came before the call returned. It goes on, so its process must end."""


@contextlib.contextmanager
def shielded(call: Callable[[], T]) -> Iterator[T]:
    """Make a call on another thread, which stays for as long as the context lasts, and yield what it returns.

    Whoever starts Ray on the main thread cannot stop it cleanly. A handler's exception may get lost in a callback, or
    crash half a driver at its exit, or wait for C++; Ray's own handler of SIGTERM prints a stack and aborts. SIGTERM
    and SIGQUIT are as Ctrl-C from here on, and so is SIGHUP, unless it is ignored, as by nohup. A terminal that closes
    sends it, and its shell once more: only the first one counts. Ray's processes end with the thread that started them,
    so that one stays.

    To be called on the main thread: the kernel gives a signal to no other while that one waits for it.

    Raises:
        StoppedError: one of them came first.
    """
    outcome, over = Future[T](), threading.Event()
    signals = {number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
    _take_as_ctrl_c(signals)
    before, waiting = signal.pthread_sigmask(signal.SIG_BLOCK, {*signals, RETURNED}), threading.get_ident()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, {*before, *OURS_ALONE})  # Ray's processes inherit it
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)
        signal.pthread_kill(waiting, RETURNED)
        over.wait()

    threading.Thread(target=run, daemon=True).start()
    try:
        try:
            while not outcome.done() or signal.sigpending().intersection(signals):
                number = signal.sigwait({*signals, RETURNED})
                if number == signal.SIGHUP:
                    signal.signal(signal.SIGHUP, signal.SIG_IGN)
                if number != RETURNED:
                    raise StoppedError
            _take_as_ctrl_c(signals)  # the call may have set others
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield outcome.result()
    finally:
        over.set()


def _take_as_ctrl_c(signals: set[signal.Signals]) -> None:
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.default_int_handler)
    if signal.SIGHUP in signals:
        signal.signal(signal.SIGHUP, _hang_up)


def _hang_up(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
