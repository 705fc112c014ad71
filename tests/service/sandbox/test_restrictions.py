"""The worker's sandbox: denied calls, and decoding that still works."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from media_samples import animation, pattern, picture, saved, video
from PIL import Image, ImageCms

from media.reader import open_frames
from media.types import MediaOptions
from service.sandbox import restrictions
from service.sandbox.pool import MediaPool
from service.settings import Limits

ROOT = Path(__file__).parents[3]
CLIP = pattern(5, 64, 96)

ATTEMPTS = """
import os, resource, socket, sys
from service.sandbox import restrictions
restrictions.enter(1 << 30, os.getppid())
def denied(attempt):
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "allowed"
print(denied(lambda: open("/etc/passwd").read()))
print(denied(lambda: os.listdir("/")))
print(denied(lambda: open(sys.argv[1], "w")))
print(denied(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])))))
print(resource.getrlimit(resource.RLIMIT_AS)[0])
"""


@pytest.mark.skipif(restrictions.landlock_version() < 4, reason="this kernel has no Landlock with network rules")
def test_files_and_ports_are_out_of_reach(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", ATTEMPTS, str(tmp_path / "file"), str(listener.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["PermissionError"] * 4 + [str(1 << 30)]
    assert list(tmp_path.iterdir()) == []


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
    pool = MediaPool(Limits(), 1)
    await pool.start()
    for data in files:
        for options in (MediaOptions(animated=True), MediaOptions(size=(20, 20), frames=3, sampling="uniform")):
            frames = await pool.decode(data, None, options)
            reader = open_frames(io.BytesIO(data), Limits(), options)
            assert np.array_equal(frames.pixels, np.stack(list(reader)))
            assert (frames.source, frames.preprocess) == (reader.info(), reader.preprocess)
            assert frames.is_video == reader.is_video
    assert not pool.restarts
    await pool.stop()
