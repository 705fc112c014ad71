"""Compilation of Triton kernels: in parallel before a process serves, in the background afterwards.

It rests on the hook that Triton calls before it compiles or loads a kernel. If another library owns that hook, kernels
compile where they are launched, as they would without this module. Kernels that are not on disk go to the compile
server; a thread of this process compiles those that it fails to deliver.

Triton's `AsyncCompileMode` (3.7) would not do: a launch waits for its kernel, in other threads too, and so does leaving
the mode. It holds for one thread, takes no processes (its task is not picklable), and stays active after an error.
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

LOAD_TIMEOUT_S = 0.3  # loading a kernel from disk takes less
log = logging.getLogger(__name__)

KernelKey = tuple[int, str]  # index of the GPU, and Triton's specialization

_compiled: set[KernelKey] = set()
_failed: set[KernelKey] = set()
_background: dict[KernelKey, threading.Event] = {}  # set when the compilation has ended
_CORES = os.cpu_count() or 2
_BACKGROUND_CORES = max(1, _CORES // 2)  # requests are served on the others
_slots = threading.BoundedSemaphore(_BACKGROUND_CORES)
_closing = threading.Event()


class _Thread(threading.local):
    """A thread's handler of missing kernels (True skips the launch), and the job of the kernel that it loads."""

    on_miss: Callable[..., bool] | None = None
    job: Job | None = None


_thread = _Thread()
_server = CompileServer()


def _after_fork() -> None:
    """Forget the parent's compilations."""
    global _server, _slots
    _server.detach()
    _server = CompileServer()
    _slots = threading.BoundedSemaphore(_BACKGROUND_CORES)
    _background.clear()


os.register_at_fork(after_in_child=_after_fork)


class KernelNotReadyError(RuntimeError):
    """A call that needs a kernel which is not compiled yet.

    Args:
        kernel: its name, which is the message.
        first: whether this call started its compilation.
    """

    def __init__(self, kernel: str, first: bool) -> None:
        super().__init__(kernel)
        self.first = first


def compilation_count() -> int:
    """Return the number of kernels compiled, loaded or failed since `count_compilations`; 0 without triton."""
    return len(_compiled | _failed)


def count_compilations() -> None:
    """Start to count; may be called again."""
    if not HAS_TRITON:
        return
    from triton import knobs  # type: ignore[import-untyped]

    if knobs.runtime.jit_post_compile_hook is None:
        knobs.runtime.jit_post_compile_hook = _on_compiled


def _on_compiled(*, compile: dict[str, Any], **rest: Any) -> None:
    _compiled.add(_kernel_key(compile))


@contextmanager
def raise_if_missing() -> Iterator[None]:
    """Make this thread's launches of missing kernels raise `KernelNotReadyError` and compile in the background.

    A kernel on disk is loaded, unless others are compiling. One that does not compile is refused from then on, and the
    log holds its error.
    """

    def on_miss(*, fn: Any, compile: dict[str, Any], **rest: Any) -> bool:
        first, done = _start_background(fn.jit_function, compile)
        if done.wait(LOAD_TIMEOUT_S if first else 0) and _kernel_key(compile) not in _failed:
            return False
        raise KernelNotReadyError(fn.jit_function.__name__, first)

    with _miss_handler(on_miss):
        yield


@contextmanager
def compile_all(wait: bool = True) -> Iterator[None]:
    """Skip this thread's launches of missing kernels and compile those kernels for the present GPU.

    Skipped kernels write nothing, and ready ones do run: results inside this context are undefined, and no kernel may
    depend on the values that it reads (indices, for example). A kernel that does not compile is skipped here; the next
    launch outside raises its error.

    Args:
        wait: compile in parallel on all cores and return when all are ready; else in the background.
    """
    if not wait:
        with _miss_handler(_compile_in_background):
            yield
        return
    submitted: set[KernelKey] = set()
    pool = ThreadPoolExecutor(_CORES)

    def load(function: Any, key: KernelKey) -> None:
        with suppress(Exception):
            _load(function, *key)

    def on_miss(*, fn: Any, compile: dict[str, Any], **rest: Any) -> bool:
        key = _kernel_key(compile)
        if key not in submitted:
            submitted.add(key)
            pool.submit(load, fn.jit_function, key)
        return True

    try:
        with _miss_handler(on_miss):
            yield
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _compile_in_background(*, fn: Any, compile: dict[str, Any], **rest: Any) -> bool:
    _start_background(fn.jit_function, compile)
    return True


def _load(function: Any, gpu: int, specialization: str) -> None:
    """Load a kernel from disk, compiling it first if necessary."""
    from triton import knobs
    from triton.runtime import driver  # type: ignore[import-untyped]

    if knobs.cache.manager_class is None:
        knobs.cache.manager_class = _cache_manager()
    # a new thread starts on the first GPU
    with torch.cuda.device(gpu if torch.cuda.is_available() else -1):
        target = driver.active.get_current_target()
        _thread.job = {
            "module": function.fn.__module__,
            "name": function.fn.__name__,
            "specialization": specialization,
            "target": (target.backend, target.arch, target.warp_size),
            "cache": os.path.abspath(knobs.cache.dir),
        }
        try:
            function.preload(specialization)
        finally:
            _thread.job = None


def _cache_manager() -> type:
    """Return Triton's disk cache, extended: on a miss it sends the thread's job to the compile server."""
    from triton.runtime.cache import FileCacheManager  # type: ignore[import-untyped]

    class CacheManager(FileCacheManager):
        def get_group(self, filename: str) -> dict[str, str] | None:
            found: dict[str, str] | None = super().get_group(filename)
            job, _thread.job = _thread.job, None
            if found is None and job is not None:
                _server.compile(job)
                found = super().get_group(filename)
                if found is None and _closing.is_set():
                    raise RuntimeError("The process is exiting; the kernel was not compiled.")
            return found

    return CacheManager


def _start_background(function: Any, compile: dict[str, Any]) -> tuple[bool, threading.Event]:
    """Compile in the background, once for each GPU.

    Returns:
        bool: whether this call started it.
        Event: set when the compilation has ended.
    """
    key = gpu, specialization = _kernel_key(compile)
    new = threading.Event()
    done = _background.setdefault(key, new)
    if done is not new:
        return False, done

    def run() -> None:
        try:
            with _slots:
                if not _closing.is_set():
                    _load(function, gpu, specialization)
        except Exception:
            _failed.add(key)
            if not _closing.is_set():
                log.exception("%s does not compile", function.__name__)
        finally:
            done.set()

    try:
        threading.Thread(target=run, name="compiling", daemon=True).start()
    except RuntimeError:  # the system is out of threads; a later call may succeed
        del _background[key]
        log.warning("no thread to compile %s", function.__name__)
    return True, done


def _kernel_key(compile: dict[str, Any]) -> KernelKey:
    return compile["device"], compile["specialization_data"]


@atexit.register
def _close() -> None:
    """Wait for running compilations: a thread that returns from the compiler into a dead interpreter aborts it."""
    _closing.set()
    _server.close()
    for done in list(_background.values()):
        done.wait()


@contextmanager
def _miss_handler(on_miss: Callable[..., bool]) -> Iterator[None]:
    """Call `on_miss` for each kernel that this thread would compile or load."""
    before, _thread.on_miss = _thread.on_miss, on_miss
    _install_hook()
    try:
        yield
    finally:
        _thread.on_miss = before


def _install_hook() -> None:
    if not HAS_TRITON:
        return
    from triton import knobs

    if knobs.runtime.jit_cache_hook is None:
        knobs.runtime.jit_cache_hook = _cache_hook


def _cache_hook(**what: Any) -> bool:
    return _thread.on_miss is not None and _thread.on_miss(**what)
