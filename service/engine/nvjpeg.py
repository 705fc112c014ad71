"""NVIDIA's nvJPEG through ctypes: a batch of JPEGs decoded by the JPEG engines of a GPU."""

from __future__ import annotations

import ctypes
import importlib.metadata
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.inference.graphs import HIGH_PRIORITY
from service.engine.jpegs import File, NoJpegEnginesError, starts_of_pixels
from service.engine.pictures import COLOURS

# Numbers of nvjpeg.h. Without a pipeline of its own the library works on the stream that it is given.
HARDWARE, INTERLEAVED_RGB, FULL_CHROMA = 3, 5, 0
NO_PIPELINE, MEMORY_POOLS, INTERPOLATED_CHROMA = 1, 1 << 1, 1 << 5
# Its kernels go before those of the encoder, or each would wait until one of these has ended.
PRIORITY = HIGH_PRIORITY - 1
USUAL_BATCH, USUAL_SIDE = 64, 1024  # for which there is memory from the start
CHANNELS = 4  # places of a channel's address in the library's description of an image; then its pitches follow
PACKAGES = ("nvidia-nvjpeg", "nvidia-nvjpeg-cu12")

log = logging.getLogger(__name__)


class NvJpegError(Exception):
    """A function of nvJPEG failed, or a file is not what was announced."""


class Library(NamedTuple):
    """The functions of nvJPEG.

    Args:
        brief: called with Python's lock, since giving it up and waiting for it would take longer than the call.
        long: called without it.
    """

    brief: Any
    long: Any


class NvJpeg:
    """A decoder of the current GPU, for one thread at a time; each thread may have its own.

    Raises:
        NoJpegEnginesError: the library is missing, or finds no engines.
    """

    def __init__(self) -> None:
        self._library = load_library()
        self._handle, self._state, self._header = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        flags = NO_PIPELINE | MEMORY_POOLS | INTERPOLATED_CHROMA
        long = self._library.long
        try:
            _check(long.nvjpegCreateEx(HARDWARE, None, None, flags, ctypes.byref(self._handle)))
            _check(long.nvjpegJpegStateCreate(self._handle, ctypes.byref(self._state)))
            _check(long.nvjpegJpegStreamCreate(self._handle, ctypes.byref(self._header)))
            usual = USUAL_BATCH, USUAL_SIDE, USUAL_SIDE, FULL_CHROMA, INTERLEAVED_RGB
            _check(long.nvjpegDecodeBatchedPreAllocate(self._handle, self._state, *usual))
        except NvJpegError as error:
            raise NoJpegEnginesError(f"This GPU has no JPEG engines. {error} Use --jpeg cpu.") from error
        self._stream = torch.cuda.Stream(priority=PRIORITY)
        self._batch = 0

    def __call__(self, files: Sequence[File], sizes: Sequence[tuple[int, int]], memory: Tensor) -> bool:
        """Decode files one after the other into memory of the device; return whether all are there.

        Args:
            files: JPEGs, each uint8 (n).
            sizes: (height, width) of each; a file of another size is refused.
            memory: for uint8 RGB pixels (n), none of it in use.
        """
        *starts, end = starts_of_pixels(sizes)
        if end > memory.numel():
            return False
        places = np.array([file.__array_interface__["data"][0] for file in files], np.uint64)
        lengths = np.array([len(file) for file in files], np.uint64)
        images = np.zeros((len(files), 2 * CHANNELS), np.uint64)
        images[:, 0] = np.array(starts, np.uint64) + np.uint64(memory.data_ptr())
        images[:, CHANNELS] = [COLOURS * width for _, width in sizes]
        done = torch.cuda.Event(blocking=True)  # a thread that spins would take a core from the readers
        done.record(self._stream)  # already now, which gives this thread the context that the library expects
        try:
            self._check_files(places.tolist(), lengths.tolist(), sizes)
            self._decode(len(files), places, lengths, images)
            is_decoded = True
        except NvJpegError as error:
            log.info("Readers decode a batch of %d JPEGs. %s", len(files), error)
            is_decoded = False
        done.record(self._stream)
        done.synchronize()  # a call that failed may have begun: files and memory are used again
        return is_decoded

    def _check_files(self, places: Sequence[int], lengths: Sequence[int], sizes: Sequence[tuple[int, int]]) -> None:
        """Raise `NvJpegError` for a file of another size, or of a kind that the engines do not take."""
        brief, handle, header = self._library.brief, self._handle, self._header
        width, height, refused = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_int()
        found, answer = (ctypes.byref(width), ctypes.byref(height)), ctypes.byref(refused)
        for place, length, size in zip(places, lengths, sizes, strict=True):
            data = ctypes.c_void_p(place), ctypes.c_size_t(length)
            _check(brief.nvjpegJpegStreamParseHeader(handle, *data, header))
            _check(brief.nvjpegJpegStreamGetFrameDimensions(header, *found))
            _check(brief.nvjpegDecodeBatchedSupported(handle, header, answer))
            if refused.value or (height.value, width.value) != size:
                said = f"{height.value}x{width.value} pixels where {size} are announced"
                raise NvJpegError(f"The header of a file has {said}; the engines answer {refused.value}.")

    def _decode(self, number: int, *arrays: np.ndarray) -> None:
        """Begin to decode so many files; `arrays` are their addresses, their lengths, and where pixels go."""
        long = self._library.long
        before, self._batch = self._batch, 0  # a call that fails leaves a state to initialize again
        if number != before:
            _check(long.nvjpegDecodeBatchedInitialize(self._handle, self._state, number, 1, INTERLEAVED_RGB))
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
        stream = ctypes.c_void_p(self._stream.cuda_stream)
        _check(long.nvjpegDecodeBatched(self._handle, self._state, *pointers, stream))
        self._batch = number


def _check(status: int) -> None:
    if status:
        raise NvJpegError(f"The library nvJPEG returned status {status}.")


@cache
def load_library() -> Library:
    """Load nvJPEG from NVIDIA's package.

    Raises:
        NoJpegEnginesError: it is not installed.
    """
    for package in PACKAGES:
        try:
            files = importlib.metadata.files(package) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name.startswith("libnvjpeg.so"):
                path = str(file.locate())
                return Library(ctypes.PyDLL(path), ctypes.CDLL(path))
    raise NoJpegEnginesError(
        "JPEGs are decoded on a GPU by nvJPEG, which is not installed here. "
        "Run pip install -e '.[gpu-jpeg]' in a checkout, or use --jpeg cpu."
    )
