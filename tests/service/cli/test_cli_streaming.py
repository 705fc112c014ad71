"""Long videos: memory that does not grow, tokens of the whole clip, and no file after an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from media.reader import open_frames
from media.types import MediaOptions
from media.write import VideoWriter
from model.bundle import load_bundle
from service.formats.codes import read_codes
from service.formats.media_types import NPZ

SHORT, LONG = 200, 2000
SIDE = 128
EXTRA_KILOBYTES = (LONG - SHORT) * SIDE * SIDE * 3 // 1024  # 88 MB: keeping the long video's frames would show
# glibc gives freed arrays back at once; without it the peak depends on how the heap happens to be cut up.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
# A shell that starts the tests in the background makes them, and what they start, ignore Ctrl-C.
INTERRUPTIBLE = """
import signal
from service.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""

# The kernel's high-water mark of this program alone; getrusage would count the process that started it.
MEASURED = """
import re, sys
from service.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
status = open("/proc/self/status").read()
print(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1], file=sys.stderr)
"""


def peak_kilobytes(*words: str | Path) -> int:
    """Run `omnitok` in a process of its own and return its peak resident memory."""
    command = [sys.executable, "-c", MEASURED, *map(str, words)]
    environment = os.environ | ALLOCATOR
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1])


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """short.mp4, and long.mp4 that begins with the same frames."""
    folder = tmp_path_factory.mktemp("videos")
    blocks = np.random.default_rng(0).integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    picture = blocks.repeat(8, 0).repeat(8, 1)
    for name, frames in (("short", SHORT), ("long", LONG)):
        path = folder / f"{name}.mp4"
        with path.open("wb") as file, closing(VideoWriter(file, "video/mp4", 25.0, SIDE, SIDE)) as writer:
            for step in range(frames):
                writer.write(np.roll(picture, (step, 2 * step), (0, 1)))
    return folder


@pytest.fixture(scope="module")
def encoded(videos: Path, bundles: Path) -> dict[str, int]:
    """Peak memory of encoding each video to an npz beside it, kilobytes."""
    return {
        name: peak_kilobytes("encode", videos / f"{name}.mp4", "-b", bundles / "debug", "-o", videos / f"{name}.npz")
        for name in ("short", "long")
    }


def tokens_of(path: Path) -> Any:
    return read_codes(path.read_bytes(), NPZ).tokens


def test_encoding_a_long_video_takes_no_more_memory(encoded: dict[str, int], table: Callable[..., None]) -> None:
    for name, kilobytes in encoded.items():
        table("peak memory of `omnitok encode`", f"{name} video: {kilobytes / 1024:.0f} MiB")
    assert encoded["long"] - encoded["short"] <= EXTRA_KILOBYTES / 2


@pytest.mark.parametrize("name", ["short", "long"])
def test_streamed_tokens_are_those_of_the_whole_clip(
    encoded: dict[str, int], videos: Path, bundles: Path, name: str
) -> None:
    with (videos / f"{name}.mp4").open("rb") as file:
        pixels = np.stack(list(open_frames(file, None, MediaOptions(frames=SHORT))))
    with torch.inference_mode():
        whole = load_bundle(bundles / "debug").tokenizer.encode(torch.from_numpy(pixels)[None])[0].numpy()
    streamed = tokens_of(videos / f"{name}.npz")
    frames = {"short": SHORT, "long": LONG}[name]
    assert streamed.shape == (1 + -(-(frames - 1) // 4), SIDE // 8, SIDE // 8)
    # In the long video other frames follow where the short one is padded.
    same = len(whole) if name == "short" else 1 + (SHORT - 1) // 4
    np.testing.assert_array_equal(streamed[:same], whole[:same])


def test_decoding_a_long_video_takes_no_more_memory(
    encoded: dict[str, int], videos: Path, bundles: Path, table: Callable[..., None]
) -> None:
    peaks = {}
    for name in ("short", "long"):
        out = videos / f"{name}.npy"
        peaks[name] = peak_kilobytes("decode", videos / f"{name}.npz", "-b", bundles / "debug", "-o", out)
        table("peak memory of `omnitok decode`", f"{name} video: {peaks[name] / 1024:.0f} MiB")
    assert peaks["long"] - peaks["short"] <= EXTRA_KILOBYTES / 2
    tokenizer = load_bundle(bundles / "debug").tokenizer
    with torch.inference_mode():
        whole = tokenizer.decode(torch.from_numpy(tokens_of(videos / "short.npz").astype(np.int64))[None])[0].numpy()
    # Sums of another order may round to the neighbouring level.
    np.testing.assert_allclose(np.load(videos / "short.npy").astype(int), whole[:SHORT], atol=1)
    assert np.load(videos / "long.npy", mmap_mode="r").shape == (LONG, SIDE, SIDE, 3)


@pytest.mark.parametrize(("blow", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing_half_written(
    encoded: dict[str, int], videos: Path, bundles: Path, tmp_path: Path, blow: signal.Signals, code: int
) -> None:
    words = ["decode", videos / "long.npz", "-b", bundles / "debug", "-o", tmp_path / "out.mp4"]
    command = [sys.executable, "-c", INTERRUPTIBLE, *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob(".*out.mp4")) and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, blow)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())
