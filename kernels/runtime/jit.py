"""Compilation of Triton kernels: many at once before a process serves, none that a caller waits for afterwards.

All of it rests on the hook that Triton asks before it compiles or loads a kernel. Where somebody else has taken that
hook, kernels are compiled where they are launched, as they would be without this module. Kernels that are not on disk
are left to processes of their own, and compiled by a thread of this one where those do not bring them about.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import torch

from kernels.runtime.compile_server import CompileServer, Job
from kernels.runtime.device import HAS_TRITON

LOAD_SECONDS = 0.3  # more than it takes to load a kernel that an earlier process left on disk
log = logging.getLogger(__name__)

_seen: set[tuple[int, str]] = set()  # GPU and kernel
_failed: set[tuple[int, str]] = set()
_done: dict[tuple[int, str], threading.Event] = {}  # of those that compile in the background, or have
_CORES = os.cpu_count() or 2
_HALF = max(1, _CORES // 2)
_slots = threading.BoundedSemaphore(_HALF)  # callers are served meanwhile
_closing = threading.Event()


class _Thread(threading.local):
    """A thread's answer to a missing kernel (True leaves the launch out), and the kernel that it loads."""

    answer: Callable[..., bool] | None = None
    job: Job | None = None


_thread = _Thread()
_server = CompileServer()


def _forked() -> None:
    """Forget the compilations of the parent after a fork."""
    global _server, _slots
    _server.leave()
    _server = CompileServer()
    _slots = threading.BoundedSemaphore(_HALF)
    _done.clear()


os.register_at_fork(after_in_child=_forked)


class NotReadyError(RuntimeError):
    """A call needs a kernel that is not compiled yet; the message names it.

    Args:
        kernel: which.
        first: whether its compilation has begun with this call.
    """

    def __init__(self, kernel: str, first: bool) -> None:
        super().__init__(kernel)
        self.first = first


def count() -> int:
    """Kernels since `watch` was first called, those that do not compile too; 0 where triton is not installed."""
    return len(_seen | _failed)


def watch() -> None:
    """Begin to count; again is harmless."""
    if not HAS_TRITON:
        return
    from triton import knobs  # type: ignore[import-untyped]

    if knobs.runtime.jit_post_compile_hook is None:
        knobs.runtime.jit_post_compile_hook = _note


def _note(*, compile: dict[str, Any], **rest: Any) -> None:
    _seen.add(_place(compile))


@contextmanager
def refused() -> Iterator[None]:
    """Within, a launch of this thread whose kernel is missing raises `NotReadyError`; it compiles in the background.

    A kernel that is on disk is loaded, unless others are compiling. One that does not compile is refused ever after,
    and the log holds its error.
    """

    def refuse(*, fn: Any, compile: dict[str, Any], **rest: Any) -> bool:
        first, done = _begin(fn.jit_function, compile)
        if done.wait(LOAD_SECONDS if first else 0) and _place(compile) not in _failed:
            return False
        raise NotReadyError(fn.jit_function.__name__, first)

    with _asked(refuse):
        yield


@contextmanager
def together(wait: bool = True) -> Iterator[None]:
    """Within, launches of this thread whose kernels are missing do nothing; all of these are compiled.

    What such a kernel would have written is left as it was, and a kernel that is ready by its next launch runs on that:
    results within are worth nothing, and no kernel may rely on what it reads (an index, say). Kernels are for the
    present GPU. One that does not compile is passed over here; its error comes where it is launched.

    Args:
        wait: compile side by side on all cores and return when all are ready; else in the background.
    """
    if not wait:
        with _asked(_compile_later):
            yield
        return
    loading: set[tuple[int, str]] = set()
    pool = ThreadPoolExecutor(_CORES)

    def load(function: Any, place: tuple[int, str]) -> None:
        with suppress(Exception):
            _load(function, *place)

    def leave_out(*, fn: Any, compile: dict[str, Any], **rest: Any) -> bool:
        place = _place(compile)
        if place not in loading:
            loading.add(place)
            pool.submit(load, fn.jit_function, place)
        return True

    try:
        with _asked(leave_out):
            yield
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _compile_later(*, fn: Any, compile: dict[str, Any], **rest: Any) -> bool:
    _begin(fn.jit_function, compile)
    return True


def _load(function: Any, gpu: int, kernel: str) -> None:
    """Load a kernel from disk, or have it compiled first."""
    from triton import knobs
    from triton.runtime import driver  # type: ignore[import-untyped]

    if knobs.cache.manager_class is None:
        knobs.cache.manager_class = _cache()
    # a thread begins on the first GPU
    with torch.cuda.device(gpu if torch.cuda.is_available() else -1):
        target = driver.active.get_current_target()
        _thread.job = {
            "module": function.fn.__module__,
            "name": function.fn.__name__,
            "specialization": kernel,
            "target": (target.backend, target.arch, target.warp_size),
            "cache": os.path.abspath(knobs.cache.dir),
        }
        try:
            function.preload(kernel)
        finally:
            _thread.job = None


def _cache() -> type:
    """Triton's cache on disk, which has what a thread wants compiled by the server if it is not there."""
    from triton.runtime.cache import FileCacheManager  # type: ignore[import-untyped]

    class Cache(FileCacheManager):
        def get_group(self, filename: str) -> dict[str, str] | None:
            found: dict[str, str] | None = super().get_group(filename)
            job, _thread.job = _thread.job, None
            if found is None and job is not None:
                _server.compile(job)
                found = super().get_group(filename)
                if found is None and _closing.is_set():
                    raise RuntimeError("the process ends")
            return found

    return Cache


def _begin(function: Any, what: dict[str, Any]) -> tuple[bool, threading.Event]:
    """Compile in the background, once for a GPU; says whether it begins now, and what is set when it has ended."""
    place = gpu, kernel = _place(what)
    new = threading.Event()
    done = _done.setdefault(place, new)
    if done is not new:
        return False, done

    def run() -> None:
        try:
            with _slots:
                if not _closing.is_set():
                    _load(function, gpu, kernel)
        except Exception:
            _failed.add(place)
            if not _closing.is_set():
                log.exception("%s does not compile", function.__name__)
        finally:
            done.set()

    try:
        threading.Thread(target=run, name="compiling", daemon=True).start()
    except RuntimeError:  # the system gives no thread: another call may try again
        del _done[place]
        log.warning("no thread to compile %s", function.__name__)
    return True, done


def _place(what: dict[str, Any]) -> tuple[int, str]:
    return what["device"], what["specialization_data"]


@atexit.register
def _close() -> None:
    """Let end what is under way: a thread that comes back from the compiler into a dead interpreter aborts it."""
    _closing.set()
    _server.close()
    for done in list(_done.values()):
        done.wait()


@contextmanager
def _asked(answer: Callable[..., bool]) -> Iterator[None]:
    """Within, `answer` is asked of each kernel that this thread would compile or load."""
    before, _thread.answer = _thread.answer, answer
    _listen()
    try:
        yield
    finally:
        _thread.answer = before


def _listen() -> None:
    if not HAS_TRITON:
        return
    from triton import knobs

    if knobs.runtime.jit_cache_hook is None:
        knobs.runtime.jit_cache_hook = _ask


def _ask(**what: Any) -> bool:
    return _thread.answer is not None and _thread.answer(**what)
