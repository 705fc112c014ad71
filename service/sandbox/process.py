"""The pool's side of one worker process: start it, give it tasks, believe nothing it says, end it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import service
from media.limits import MediaLimits
from media.types import Frames, MediaOptions, Preprocess, SourceInfo
from service.errors import ProblemError
from service.sandbox.ipc import Channel, ClosedError
from service.settings import Limits

_START_SECONDS = 60.0
# Writing is our own work on bounded input, so its bound only has to end a hang.
_ENCODE_SECONDS = 30.0
_MAX_FILE_OVERHEAD = 2**20
# By operators and by the kernel when memory is short.
_SENT_BY_OTHERS = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGQUIT)

_BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from service.sandbox.worker import main
main(int(sys.argv[1]))
"""


class _End(BaseModel):
    """The last message of a file that was decoded."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["end", "picture"]
    source: SourceInfo
    preprocess: Preprocess
    is_video: bool
    seconds: float = Field(ge=0, allow_inf_nan=False)


class _Arriving(NamedTuple):
    """A picture of which a part has come.

    Args:
        header: its message.
        pixels: that are filled.
        rest: of their bytes.
    """

    header: dict[str, Any]
    pixels: NDArray[np.uint8]
    rest: memoryview


class OutOfMemoryError(Exception):
    """The worker reached its memory limit and ends itself."""


class WorkerProcess:
    """One worker. Its methods block: they are for a thread of the pool, except `kill`, which is for any.

    Args:
        limits: what a task may cost.
        directory: an empty directory to live in.
        allow_weak: start even if the kernel lacks a wall of the sandbox.
        niceness: by how much its priority on the processor is lower than the service's.

    Attributes:
        tasks: that it was given.
        killed: `kill` was called; the kernel may take a while to end it.

    Raises:
        RuntimeError: the process does not start.
    """

    def __init__(self, limits: Limits, directory: Path, allow_weak: bool = False, niceness: int = 0) -> None:
        self.limits = limits
        self.tasks = 0
        self.killed = False
        self._arriving: _Arriving | None = None
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        # No environment, no site folder, no session or descriptor in common with the service.
        command = [sys.executable, "-I", "-S", "-B", "-c", _BOOT, str(theirs.fileno()), json.dumps(_import_path())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=directory,
            env={"OPENBLAS_NUM_THREADS": "1"},  # its threads would eat the address space
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        try:
            self._channel.deadline = time.monotonic() + _START_SECONDS
            bounds = {field.name: getattr(limits, field.name) for field in fields(MediaLimits)}
            setup = {"limits": bounds, "memory": limits.worker_memory_bytes, "parent": os.getpid()}
            self._channel.send(setup | {"niceness": niceness})
            missing = self._expect("ready").get("missing")
            if missing and not allow_weak:
                raise ClosedError(
                    f"The sandbox needs {' and '.join(missing)}, which this kernel or container lacks. Allow it, or "
                    "set OMNITOK_ALLOW_WEAK_SANDBOX=true if the container itself denies files, sockets and processes."
                )
        except (ClosedError, TimeoutError) as error:
            self.kill()
            self.reap()
            raise RuntimeError(f"A media worker did not start: {error}") from error

    @property
    def alive(self) -> bool:
        """Return whether the process runs and nobody has killed it; the kernel may take a while to end it."""
        return not self.killed and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def decode(self, data: bytes, media_type: str, options: MediaOptions, max_pixels: int) -> Frames:
        """Decode one file, of which no more than `max_pixels` pixels are decoded.

        Raises:
            ProblemError: the file's fault.
            ClosedError, TimeoutError, OutOfMemoryError: the worker is lost.
        """
        self._begin(_decoding(data, media_type, options, max_pixels), data, self.limits.decode_seconds)
        header = self._expect("begin", "picture", "end")
        if header["kind"] == "picture":
            arriving = self._arrival(header)
            self._channel.receive_into(arriving.rest)
            return _frames(arriving.pixels, header)
        pixels, count = np.empty((0, 0, 0, 3), np.uint8), 0
        if header["kind"] == "begin":
            pixels = np.empty(self._checked_shape(header.get("shape")), np.uint8)
            header = self._expect("frame", "end")
        while header["kind"] == "frame":
            if count == len(pixels):
                raise ClosedError(f"The worker sent more frames than the {count} that it announced.")
            self._channel.receive_into(memoryview(pixels[count]).cast("B"))
            count += 1
            header = self._expect("frame", "end")
        return _frames(pixels[:count], header)

    def fileno(self) -> int:
        """Return the descriptor of the socket, which becomes readable as `take_picture` has something to take."""
        return self._channel.fileno()

    def fits(self, data: bytes) -> bool:
        """Return whether a file is small enough for `begin_picture`."""
        return self._channel.fits(data)

    def begin_picture(self, data: bytes, media_type: str, options: MediaOptions, max_pixels: int) -> None:
        """Send one small still picture without waiting; arguments as for `decode`.

        Raises:
            ClosedError: the worker is lost.
        """
        self.tasks += 1
        self._arriving = None
        task = _decoding(data, media_type, options, max_pixels)
        self._channel.send_now(task | {"seconds": self.limits.decode_seconds}, data)

    def take_picture(self) -> Frames | None:
        """Return the picture that was sent, or None while a part of it is still to come; errors as `decode`."""
        arriving = self._arriving
        if arriving is None:
            header = self._channel.receive_now()
            if header is None:
                return None
            arriving = self._arrival(self._checked(header, "picture"))
        rest = self._channel.receive_into_now(arriving.rest)
        self._arriving = arriving._replace(rest=rest)
        return None if rest.nbytes else _frames(arriving.pixels, arriving.header)

    def encode(self, pixels: NDArray[np.uint8], media_type: str, fps: float, quality: int | None) -> bytes:
        """Encode one result; errors as `decode`."""
        pixels = np.ascontiguousarray(pixels)
        task = {"op": "encode", "bytes": pixels.nbytes, "shape": pixels.shape}
        task |= {"media_type": media_type, "fps": fps, "quality": quality}
        self._begin(task, pixels.data, _ENCODE_SECONDS)
        size = self._expect("file").get("bytes")
        if not isinstance(size, int) or not 0 < size <= 2 * pixels.nbytes + _MAX_FILE_OVERHEAD:
            raise ClosedError(f"The worker announced a file of {size} bytes of {pixels.nbytes} bytes of pixels.")
        return self._channel.receive_bytes(size)

    def kill(self) -> None:
        """End the process at once; a thread inside a task sees `ClosedError`."""
        self.killed = True
        self._process.kill()

    def reap(self) -> str:
        """Wait for the end of a lost process, forced if need be.

        Returns:
            The reason: "cpu", "forbidden" for a system call of an exploit, "killed" by a signal that only others send,
            or "crash".
        """
        reasons = {-signal.SIGXCPU: "cpu", -signal.SIGSYS: "forbidden"} | dict.fromkeys(_SENT_BY_OTHERS, "killed")
        try:
            # One that ends may wait for the processor; one that does not holds its place no longer than a task does.
            reason = reasons.get(self._process.wait(timeout=self.limits.decode_seconds), "crash")
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            reason = "crash"
        self._channel.close()
        return reason

    def _begin(self, task: dict[str, Any], payload: bytes | memoryview, seconds: float) -> None:
        self.tasks += 1
        self._channel.deadline = time.monotonic() + seconds
        self._channel.send(task | {"seconds": seconds}, payload)

    def _arrival(self, header: dict[str, Any]) -> _Arriving:
        shape = self._checked_shape(header.pop("shape", None))
        if shape[0] != 1:
            raise ClosedError(f"The worker announced {shape[0]} frames as a picture.")
        pixels = np.empty(shape, np.uint8)
        return _Arriving(header, pixels, pixels.data.cast("B"))

    def _expect(self, *kinds: str) -> dict[str, Any]:
        return self._checked(self._channel.receive(), *kinds)

    @staticmethod
    def _checked(header: dict[str, Any], *kinds: str) -> dict[str, Any]:
        kind = header.pop("kind", None)
        if kind == "problem":
            try:
                problem = ProblemError(**header)
            except (TypeError, ValueError) as error:
                raise ClosedError(f"The worker sent a problem of another form: {error}.") from error
            raise problem
        if kind == "out-of-memory":
            raise OutOfMemoryError
        if kind not in kinds:
            raise ClosedError(f"The worker sent {kind!r:.40}; expected was {' or '.join(kinds)}.")
        return header | {"kind": kind}

    def _checked_shape(self, shape: Any) -> tuple[int, int, int, int]:
        limits = self.limits
        if not (isinstance(shape, list) and len(shape) == 4 and all(isinstance(n, int) and n > 0 for n in shape)):
            raise ClosedError(f"The worker sent {shape!r:.80} as a shape.")
        frames, height, width, channels = shape
        fits = height * width <= limits.kept_pixels and frames * height * width <= limits.clip_pixels
        if not (fits and frames <= limits.kept_frames and channels == 3):
            raise ClosedError(f"The worker announced {frames} frames of {height}x{width}x{channels}, over the limits.")
        return frames, height, width, channels


def _decoding(data: bytes, media_type: str, options: MediaOptions, max_pixels: int) -> dict[str, Any]:
    task = {"op": "decode", "bytes": len(data), "media_type": media_type, "options": vars(options)}
    return task | {"decoded_pixels": max_pixels}


def _frames(pixels: NDArray[np.uint8], header: dict[str, Any]) -> Frames:
    """Return the frames that came before the last message, or with it."""
    if not len(pixels):
        raise ProblemError("corrupt-media", "None of the frames of the file can be decoded.")
    try:
        end = _End.model_validate(header)
    except ValidationError as error:
        raise ClosedError(f"The worker sent an answer of another form: {error}.") from error
    return Frames(pixels, end.source, end.preprocess, end.is_video, end.seconds)


def _import_path() -> list[str]:
    """Return where the worker finds the same modules: our own path, made absolute, and the folder of `service`."""
    home = Path(next(iter(service.__path__))).resolve().parent
    return [str(home), *(os.path.abspath(entry) for entry in sys.path)]
