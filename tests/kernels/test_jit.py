"""Compilation of kernels in parallel and in the background, for an absent GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from ahead import compiled_for, needs_compiler
from triton.compiler import ASTSource, CompilationError
from triton.runtime import JITFunction
from waiting import SECONDS, eventually

from kernels.norm.triton_kernels import inverse_deviation_kernel, layer_norm_kernel
from kernels.runtime import jit
from kernels.runtime.compile_server import CompileServer, Job
from service.metrics.folder import process_name

HERE = Path(__file__).parent
X, ONES = torch.zeros(6, 64), torch.ones(64)

pytestmark = needs_compiler


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Yield the kernels that are launched, starting without compiled ones."""
    jit.count_compilations()
    forget(monkeypatch)
    with compiled_for(90, tmp_path) as found:
        yield found


@pytest.fixture
def server(monkeypatch):
    """Return a compile server for this test only."""
    server = CompileServer()
    monkeypatch.setattr(jit, "_server", server)
    yield server
    server.close()


@pytest.fixture
def gate(monkeypatch):
    """Return an event that background compilation waits for."""
    gate, preload = threading.Event(), JITFunction.preload

    def wait_and_preload(self, kernel):
        assert gate.wait(SECONDS)
        return preload(self, kernel)

    monkeypatch.setattr(JITFunction, "preload", wait_and_preload)
    yield gate
    gate.set()


def forget(monkeypatch) -> None:
    """Forget compiled kernels, except those on disk."""
    monkeypatch.setattr(jit, "_compiled", set())
    monkeypatch.setattr(jit, "_failed", set())
    monkeypatch.setattr(jit, "_background", {})
    for kernel in (layer_norm_kernel, inverse_deviation_kernel):
        kernel.device_caches.clear()


def all_done() -> bool:
    return all(done.wait(SECONDS) for done in jit._background.values())


def norm(rows: int) -> None:
    layer_norm_kernel[(1,)](X, ONES, ONES, X, 6, 1e-5, C=64, BIASED=True, ROWS=rows, BLOCK_C=64, PDL=False, num_warps=1)


def broken() -> None:
    # rows must be a power of two
    inverse_deviation_kernel[(1,)](X, X, 6, 1e-5, C=64, ROWS=3, BLOCK_C=64, PDL=False, num_warps=1)


def test_kernels_compile_in_parallel(compiled):
    with jit.compile_all():
        for rows in (2, 4, 2):
            norm(rows)
        broken()
    assert jit.compilation_count() == 2
    for rows in (2, 4):
        norm(rows)
    assert jit.compilation_count() == 2
    with pytest.raises(CompilationError):  # triton 3.7 defers the error to the kernel's first use
        _ = broken(), compiled[-1].hash


def never(*args, **kwargs) -> None:
    raise AssertionError("compiled in this process")


@pytest.mark.parametrize("wait", [True, False])
def test_the_server_compiles_and_this_process_only_loads(compiled, server, monkeypatch, wait):
    monkeypatch.setattr(ASTSource, "make_ir", never)
    with jit.compile_all(wait):
        for rows in (2, 4):
            norm(rows)
    assert all_done()
    norm(2)
    norm(4)
    assert (jit.compilation_count(), jit._failed) == (2, set())


def test_without_a_server_a_process_compiles_for_itself(compiled, server, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with jit.compile_all():
        norm(2)
    assert jit.compilation_count() == 1


def test_a_killed_server_blocks_no_caller(compiled, server):
    with jit.compile_all():
        norm(2)
    server._process.kill()
    for rows in (4, 8):  # at the first failure, and after it
        with jit.compile_all():
            norm(rows)
    assert jit.compilation_count() == 3


def test_an_idle_server_exits_and_restarts(compiled, monkeypatch):
    server = CompileServer(idle=0.1)
    monkeypatch.setattr(jit, "_server", server)
    monkeypatch.setattr(ASTSource, "make_ir", never)
    for rows in (2, 4):
        with jit.compile_all():
            norm(rows)
        eventually(lambda: server._process is None)
    assert jit.compilation_count() == 2


def test_a_crash_of_the_compiler_is_contained(compiled, server, monkeypatch, tmp_path):
    (tmp_path / "crashes.py").write_text("import os\nos.abort()\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    server.compile(Job(module="crashes", name="", specialization="", target=("cuda", 90, 32), cache=str(tmp_path)))
    monkeypatch.setattr(ASTSource, "make_ir", never)
    with jit.compile_all():
        norm(2)
    assert jit.compilation_count() == 1


NOTHING = Job(module="none", name="", specialization="", target=("cuda", 90, 32), cache="")


def test_a_server_exits_with_its_parent():
    script = f"""
import os, signal
from kernels.runtime.compile_server import CompileServer
server = CompileServer(idle=600)
server.compile({NOTHING})
print(server._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as died:
        server = int(died.stdout.readline())
        assert died.wait(SECONDS) == -signal.SIGKILL
    eventually(lambda: process_name(server) is None)


def test_a_fork_detaches_from_the_server(server):
    server.compile(NOTHING)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, b"." if server._process.stdin.closed else b"!")
        finally:
            os._exit(0)
    assert os.read(read, 1) == b"."
    os.waitpid(child, 0)
    server.compile(NOTHING)
    assert server._process.poll() is None


@pytest.mark.parametrize(
    "noise", ["import sys; print('noise', flush=True)", "import os; os.write(int(argument), b'noise\\n')"]
)
def test_unexpected_output_of_the_server_blocks_no_caller(compiled, server, monkeypatch, tmp_path, noise):
    argument = "import sys; argument = sys.orig_argv[-2]; "
    (tmp_path / "sitecustomize.py").write_text(argument + noise)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with jit.compile_all():
        norm(2)
    assert jit.compilation_count() == 1


def test_an_error_in_the_context_is_raised_at_once(compiled, gate):
    others = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), jit.compile_all():
        _ = norm(2), 1 // 0
    gate.set()
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(SECONDS)
    norm(2)
    assert (jit.compilation_count(), compiled[-1].metadata.name) == (1, "layer_norm_kernel")


@torch.library.custom_op("omnitok_tests::norm", mutates_args=())
def norm_op(x: torch.Tensor) -> torch.Tensor:
    norm(2)
    return x.clone()


def test_a_missing_kernel_is_refused_and_compiles_in_the_background(compiled, gate):
    for first in (True, False):
        with pytest.raises(jit.KernelNotReadyError, match="layer_norm_kernel") as refusal, jit.raise_if_missing():
            norm_op(X)
        assert refusal.value.first is first
    assert jit.compilation_count() == 0
    gate.set()
    assert all_done()
    with jit.raise_if_missing():
        norm_op(X)
    assert compiled[-1].metadata.name == "layer_norm_kernel"
    assert jit.compilation_count() == 1


def test_a_kernel_on_disk_is_loaded(compiled, monkeypatch):
    norm(2)
    forget(monkeypatch)
    monkeypatch.setattr(jit, "LOAD_TIMEOUT_S", SECONDS)
    monkeypatch.setattr(jit._server, "compile", never)
    with jit.raise_if_missing():
        norm(2)
    assert (jit.compilation_count(), jit._failed) == (1, set())


def test_a_kernel_that_does_not_compile_stays_refused(compiled, monkeypatch, caplog):
    monkeypatch.setattr(jit, "LOAD_TIMEOUT_S", SECONDS)
    for _ in range(2):
        with pytest.raises(jit.KernelNotReadyError), jit.raise_if_missing():
            broken()
    assert jit.compilation_count() == 1
    (line,) = [record for record in caplog.records if record.name == jit.log.name]
    assert (line.message, line.exc_info[0]) == ("inverse_deviation_kernel does not compile", CompilationError)
    with pytest.raises(CompilationError):
        broken()


def test_a_later_call_retries_if_no_thread_could_start(compiled, monkeypatch):
    def start(thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(jit, "LOAD_TIMEOUT_S", 0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(jit.KernelNotReadyError), jit.raise_if_missing():
            norm(2)
    assert jit._background == {}
    monkeypatch.setattr(jit, "LOAD_TIMEOUT_S", SECONDS)
    with jit.raise_if_missing():
        norm(2)


def test_background_compilation_runs_once(compiled, gate):
    for _ in range(3):
        with jit.compile_all(wait=False):
            for rows in (2, 4):
                norm(rows)
    assert jit.compilation_count() == 0
    assert len(jit._background) == 2
    gate.set()
    assert all_done()
    assert jit.compilation_count() == 2
    with jit.raise_if_missing():
        for rows in (2, 4):
            norm(rows)


def test_contexts_apply_to_one_thread(compiled):
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with jit.compile_all():
            entered.set()
            assert left.wait(SECONDS)
        norm(4)

    thread = threading.Thread(target=other)
    with jit.raise_if_missing():
        thread.start()
        assert entered.wait(SECONDS)
    norm(2)
    left.set()
    thread.join(SECONDS)
    assert [kernel.metadata.name for kernel in compiled] == 2 * ["layer_norm_kernel"]


def test_a_process_exits_while_a_kernel_compiles(tmp_path):
    script = """
import atexit, threading
atexit.register(lambda: print([done.is_set() for done in jit._background.values()]))  # runs last
import os
from ahead import compiled_for
from triton.runtime import JITFunction
from kernels.runtime import jit
from test_jit import norm

begun, preload = threading.Event(), JITFunction.preload
JITFunction.preload = lambda self, kernel: (begun.set(), preload(self, kernel))
absent = compiled_for(90, os.environ["TRITON_CACHE_DIR"])
absent.__enter__()
with jit.compile_all(wait=False):
    for rows in (1, 2, 4, 8, 16, 32):
        norm(rows)
assert begun.wait(120)
"""
    where = {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(str, (HERE, *HERE.parents[:2])))}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | where, capture_output=True, text=True, timeout=240, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, f"{6 * [True]}\n"), ended.stderr
