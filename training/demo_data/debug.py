"""A handful of real files for the debug recipe: crops and windows of the repository's sample media."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
from PIL import Image

from training.atomic_write import replacing
from training.errors import TrainingError
from training.pictures import write_image

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
SIDE = 96  # pixels of an image
CORNERS = {"snow": ((0, 120), (112, 135), (224, 135)), "sky": ((0, 0), (112, 0), (224, 0))}  # left, top
WINDOW, STEP = 21, 6  # frames of a clip, and between the starts of two
CLIP_SIZE = (80, 64)


def build_debug(out: Path, samples: Path = SAMPLES) -> None:
    """Write `images/CLASS/*` in two formats and `clips/CLASS/*.mp4`: 12 images, 6 clips.

    Args:
        out: folder of the data.
        samples: holds `igloo.jpg`, `igloo.png` and `flight.mp4`.

    Raises:
        TrainingError: the samples are not there.
    """
    if missing := [name for name in ("igloo.jpg", "igloo.png", "flight.mp4") if not (samples / name).is_file()]:
        raise TrainingError(
            f"{samples} lacks {', '.join(missing)}: the debug data is made in a checkout of the project"
        )
    for suffix in ("jpg", "png"):
        with Image.open(samples / f"igloo.{suffix}") as picture:
            for name, corners in CORNERS.items():
                for number, (left, top) in enumerate(corners):
                    crop = picture.crop((left, top, left + SIDE, top + SIDE))
                    write_image(crop, out / "images" / name / f"{number}.{suffix}")
    with av.open(str(samples / "flight.mp4")) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    for number, start in enumerate(range(0, len(frames) - WINDOW + 1, STEP)):
        window = frames[start : start + WINDOW]
        _write_clip(out / "clips" / "forward" / f"{number}.mp4", window)
        _write_clip(out / "clips" / "backward" / f"{number}.mp4", window[::-1])


def _write_clip(path: Path, frames: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as fresh, av.open(str(fresh), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "18"})
        stream.width, stream.height = CLIP_SIZE
        stream.pix_fmt = "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image.resize(CLIP_SIZE))))
        container.mux(stream.encode(None))
