"""The worker's sandbox: denied calls, and decoding that still works."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from media_samples import animation, pattern, picture, saved, video
from PIL import Image, ImageCms
from pools import PATIENT, running

from media.reader import open_frames
from media.types import MediaOptions
from service.sandbox import restrictions

ROOT = Path(__file__).parents[3]
CLIP = pattern(5, 64, 96)

ATTEMPTS = """
import json, os, resource, signal, socket, sys
from service.sandbox import restrictions, seccomp
seccomp.install = lambda: True  # here Landlock and the limits must hold alone
folder, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
open(folder + "/there", "w").close()
there = os.open(folder + "/there", os.O_WRONLY)

def connect(kind, address):
    with socket.socket(kind, socket.SOCK_STREAM) as one:
        one.connect(address)

def listen():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))

def open_many():
    files = []
    try:
        for _ in range(64):
            files.append(os.dup(0))
    finally:
        for file in files:
            os.close(file)

ATTEMPTS = {
    "read": lambda: open("/etc/passwd").read(),
    "list": lambda: os.listdir("/"),
    "create": lambda: open(folder + "/new", "w"),
    "remove": lambda: os.unlink(folder + "/there"),
    "truncate": lambda: os.truncate(folder + "/there", 0),
    "connect": lambda: connect(socket.AF_INET, ("127.0.0.1", port)),
    "listen": listen,
    "abstract socket": lambda: connect(socket.AF_UNIX, "\\0" + name),
    "signal": lambda: os.kill(os.getppid(), 0),
    "many files": open_many,
    "grow a file": lambda: os.write(there, b"x"),
}

def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "allowed"

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails instead
outside = {what: outcome(attempt) for what, attempt in ATTEMPTS.items() if what not in ("create", "remove")}
restrictions.enter(1 << 30, os.getppid())
inside = {what: outcome(attempt) for what, attempt in ATTEMPTS.items()}
limits = [resource.getrlimit(which) for which in (resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_NPROC)]
print(json.dumps([outside, inside, limits]))
"""
# The kernel's version of Landlock that denies each; limits of processes, files and sizes are older.
SINCE = {"truncate": 3, "connect": 4, "listen": 4, "abstract socket": 6, "signal": 6}


@pytest.mark.skipif(restrictions.landlock_version() < 1, reason="this kernel has no Landlock")
def test_nothing_outside_is_within_reach(tmp_path: Path) -> None:
    name = f"omnitok-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        command = [sys.executable, "-c", ATTEMPTS, str(tmp_path), str(listener.getsockname()[1]), name]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    outside, inside, limits = json.loads(done.stdout)
    assert set(outside.values()) == {"allowed"}, outside
    for what, version in SINCE.items():
        if restrictions.landlock_version() < version:
            del inside[what]
    allowed = {what for what, outcome in inside.items() if outcome == "allowed"}
    assert not allowed
    assert {inside[what] for what in inside.keys() & {"read", "list", "create", "remove", *SINCE}} == {
        "PermissionError"
    }
    assert limits == [[1 << 30] * 2, [0, 0], [0, 0]]  # root may start processes all the same
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


def test_processor_time_is_bounded_by_the_kernel() -> None:
    code = "from service.sandbox import restrictions; restrictions.allow_cpu(0)\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGXCPU


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
async def test_the_sandbox_changes_no_picture() -> None:
    """Everything that a decoder loads late, it must have loaded before."""
    photo = CLIP[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    palette = Image.fromarray(photo).quantize(32)
    files = [
        picture(photo, "JPEG", exif=exif, icc_profile=profile, progressive=True),
        picture(photo, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage"),
        saved(Image.fromarray(photo), "MPO", save_all=True, append_images=[Image.fromarray(CLIP[1])]),
        saved(Image.fromarray(photo).convert("CMYK"), "JPEG"),
        picture(photo, "PNG", exif=exif, icc_profile=profile),
        picture(photo[..., 0].astype(np.uint16) * 256, "PNG"),
        saved(palette, "PNG", transparency=3),
        saved(palette, "GIF", transparency=3),
        picture(photo, "WEBP", exif=exif, icc_profile=profile),
        *(animation(CLIP, kind) for kind in ("GIF", "PNG", "WEBP")),
        video(CLIP),
        video(CLIP, container="mov", audio=True),
        video(CLIP, pixel_format="yuv420p10le"),
        video(CLIP, "libx265", options={"preset": "ultrafast", "x265-params": "log-level=none"}),
        video(CLIP, "libvpx", "webm", options={"deadline": "realtime"}),
        video(CLIP, "libvpx-vp9", "webm", options={"deadline": "realtime"}),
        video(CLIP, "libsvtav1", options={"preset": "10"}),
    ]
    async with running() as pool:
        for data in files:
            for options in (MediaOptions(animated=True), MediaOptions(size=(20, 20), frames=3, sampling="uniform")):
                frames = await pool.decode(data, None, options)
                reader = open_frames(io.BytesIO(data), PATIENT, options)
                assert np.array_equal(frames.pixels, np.stack(list(reader)))
                assert (frames.source, frames.preprocess) == (reader.info(), reader.preprocess)
                assert frames.is_video == reader.is_video
        assert not pool.restarts
